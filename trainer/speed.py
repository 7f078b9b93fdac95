"""How fast training is: images a second, and the share of the device's peak that does useful work.

FLOPs are counted, not estimated: torch sees every matrix product, convolution and attention of one
step on a few rows (a multiply-add is two; what gradient checkpointing computes again counts
once). MFU is counted FLOPs a second over the peak of the
data sheet, dense bfloat16 tensor cores, whatever type training uses; so figures of different
settings compare, and float32 cannot reach 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import flop_counter

PEAKS = {
    "B200": 2250e12,
    "GH200": 989e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
    "RTX 5090": 210e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
    "V100": 125e12,
    "T4": 65e12,
}
"""FLOP/s by a part of the device's name, the more special names first (NVIDIA's data sheets: dense,
bfloat16 with float32 sums; float16 for the last two, which have no bfloat16)."""

_aten = torch.ops.aten
_CPU_ATTENTION: dict[Any, Callable[..., int]] = {  # the counter knows the GPU's kernels only
    _aten._scaled_dot_product_flash_attention_for_cpu: lambda query, key, value, *_, **__: (
        flop_counter.sdpa_flop_count(query, key, value)
    ),
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda gradient, query, key, value, *_, **__: flop_counter.sdpa_backward_flop_count(
            gradient, query, key, value
        )
    ),
}


def peak(device: torch.device) -> float | None:
    """FLOP/s of the device's data sheet; None for a CPU and for a device not in ``PEAKS``."""
    if device.type != "cuda":
        return None
    words = torch.cuda.get_device_name(device).replace("-", " ")
    return next((value for part, value in PEAKS.items() if f" {part} " in f" {words} "), None)


def count_flops(work: Callable[[], Any]) -> int:
    """FLOPs of whatever ``work`` computes. Elementwise operations count as nothing."""
    counter = flop_counter.FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION)
    # its own tracker of modules fails where one is given a parameter as input (Sana)
    counter.mod_tracker = _OneTotal()  # type: ignore[assignment]
    with counter:
        work()
    return int(counter.get_total_flops())


class _OneTotal:
    """In place of the counter's tracker: everything belongs to the total alone."""

    parents = frozenset({"Global"})

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


@dataclass(frozen=True)
class Speed:
    """What turns images and seconds into the figures of a log line."""

    flops: float | None
    """Of one image's share of a step; None where nothing was counted."""
    peak: float | None
    """FLOP/s of all devices together; None where it is not known."""

    def of(self, images: int, seconds: float) -> dict[str, float | None]:
        """``seconds``, ``images_per_second``, ``tflops`` (10^12 FLOP/s) and ``mfu`` in 0 to 1."""
        rate = images / max(seconds, 1e-9)
        used = None if self.flops is None else rate * self.flops
        return {
            "seconds": round(seconds, 3),
            "images_per_second": round(rate, 2),
            "tflops": None if used is None else round(used / 1e12, 4),
            "mfu": None if used is None or self.peak is None else round(used / self.peak, 4),
        }
