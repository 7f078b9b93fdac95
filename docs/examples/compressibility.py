"""A sixth reward model in one file: how well an image compresses (Black et al. 2023, DDPO).

    rewards:
      compressibility: {module: docs/examples/compressibility.py, options: {quality: 95}}

The score is minus the kilobytes of the image as a JPEG: higher is smoother. It reads no prompt and
has no checkpoint, so `source` stays empty and its code is all that decides a score.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tgo.rewards.base import Batch, Provenance
from tgo.rewards.errors import RewardError


@dataclass(frozen=True, kw_only=True)
class Compressibility(Provenance):
    """Minus the size of an image as JPEG."""

    name: ClassVar[str] = "compressibility"
    model: ClassVar[str] = "Black et al. 2023, JPEG compressibility"
    unit: ClassVar[str] = "minus kilobytes"
    usual_range: ClassVar[tuple[float, float]] = (-150.0, 0.0)

    quality: int

    def score(self, batch: Batch) -> Tensor:
        """float32 [B]."""
        return torch.tensor([-self._kilobytes(batch, place) for place in range(len(batch))])

    def _kilobytes(self, batch: Batch, place: int) -> float:
        file = io.BytesIO()
        batch.pillow(place).convert("RGB").save(file, "JPEG", quality=self.quality)
        return len(file.getvalue()) / 1000


def load(
    source: str, *, device: str | torch.device, dtype: torch.dtype, quality: int = 95
) -> Compressibility:
    """What the panel calls; it computes on the CPU whatever `device` and `dtype` are."""
    if source:
        raise RewardError(
            f"compressibility: has no checkpoint, but source is {source!r}; remove it"
        )
    return Compressibility(
        version="1",
        checkpoint_sha256="none",
        dtype="uint8",
        preprocessing=f"JPEG of quality {quality}",
        quality=quality,
    )
