"""Graphics cards: how fast they compute and how much they hold, by their data sheets."""

from __future__ import annotations

import os
import time
from typing import NamedTuple

import numpy as np

from tgo.pipeline.errors import InputError

GIB = 2**30


class Card(NamedTuple):
    """A card: dense bfloat16 TFLOP/s, summed in float32, and GiB of memory (None: not said)."""

    tflops: float
    gib: float | None

    @property
    def bytes(self) -> float | None:
        """Its memory."""
        return None if self.gib is None else self.gib * GIB


CARDS = {
    "h200": Card(989.0, 140),
    "h100": Card(989.0, 80),
    "a100": Card(312.0, 80),
    "l40s": Card(362.0, 48),
    "l4": Card(121.0, 24),
    "a6000": Card(154.8, 48),
    "rtx5090": Card(209.5, 32),
    "rtx4090": Card(165.2, 24),
    "rtx3090": Card(71.0, 24),
}
"""Those that `tgo plan --gpu` knows."""


def named(text: str) -> Card:
    """A card by its name, or as ``TFLOPS:GB`` or ``TFLOPS``.

    Raises InputError: it is neither a name of `CARDS` nor numbers above 0.
    """
    if text in CARDS:
        return CARDS[text]
    speed, colon, memory = text.partition(":")
    try:
        card = Card(float(speed), float(memory) if colon else None)
    except ValueError:
        card = Card(0.0, None)
    if not 0 < card.tflops < 1e6 or (card.gib is not None and not 0 < card.gib < 1e5):
        raise InputError(
            f"--gpu {text}: not known; use one of {', '.join(CARDS)}, or TFLOP/s and GB as 165:24"
        )
    return card


def cpu_tflops(threads: int) -> float:
    """TFLOP/s of so many threads of this machine: a matrix product of float32, timed now.

    By the time of the CPU, so that other programs do not count. It takes a fraction of a second.
    """
    side = 768
    matrix = np.ones((side, side), np.float32)

    def seconds() -> float:
        begin = time.process_time()
        matrix @ matrix
        return max(time.process_time() - begin, 1e-6)

    one = 2 * side**3 / min(seconds() for _ in range(20)) / 1e12
    return one * min(threads, os.cpu_count() or 1)


def machine_bytes() -> float:
    """Memory of this machine."""
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
