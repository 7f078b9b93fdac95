"""Scored folders to ask about."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from tests.scores import write_scored

HOSTILE = "<img src=x onerror=alert(1)> & \x1b[31m \u202e\"quotes\" 'both'"


def png(shade: int, side: int = 8) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), (shade % 256, shade // 256, 90)).save(file, "PNG")
    return file.getvalue()


def write(folder: Path, count: int = 12, *, first: int = 0) -> Path:
    """Two images per prompt, the last one failed; clip scores rise, aesthetic are shuffled."""
    scores = np.arange(count, dtype=np.float32)
    return write_scored(
        folder,
        {"clip": scores, "aesthetic": (scores * 7) % count},
        status=["ok"] * (count - 1) + ["failed"],
        prompt=[HOSTILE if n < 2 else f"prompt {n // 2}" for n in range(count)],
        domain=["cats" if n < count // 2 else "dogs" for n in range(count)],
        image=[{"bytes": png(first + n), "path": f"{n}.png"} for n in range(count)],
    )
