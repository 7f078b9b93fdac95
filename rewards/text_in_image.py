"""Whether an image shows the text that its prompt asks for, read by an OCR program.

    rewards:
      ocr: {module: tgo.rewards.text_in_image}

The score is the share of the characters in quotes that can be read, from 0 to 1: 1 less the edit
distance between the text in quotes and the nearest part of what was read, over the text's length
(capitals, spaces and punctuation do not count). A prompt without text in quotes has no score of its
own and gets 1: it asks for no text, so every image does what it asks. RapidOCR's package brings its
weights (`pip install 'tgo[ocr]'`); it computes on the CPU.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from tgo.rewards.base import Batch, Provenance
from tgo.rewards.checksum import file_sha256
from tgo.rewards.errors import RewardError

PACKAGE = "rapidocr"
_QUOTED = re.compile(r"\"([^\"]+)\"|“([^”]+)”|«([^»]+)»|„([^“”]+)[“”]|(?<!\w)'([^']+)'(?!\w)")
_LEAST_SIDE = 320
"""Pixels: smaller images are enlarged before they are read."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TextInImage(Provenance):
    """The share of the asked text that can be read."""

    name: ClassVar[str] = "ocr"
    model: ClassVar[str] = PACKAGE
    unit: ClassVar[str] = "share of characters"
    usual_range: ClassVar[tuple[float, float]] = (0.0, 1.0)

    read: Callable[[np.ndarray], str] = field(repr=False)

    def score(self, batch: Batch) -> Tensor:
        """float32 [B]."""
        found = []
        for place, prompt in enumerate(batch.prompts):
            wanted = quoted(prompt)
            picture = batch.pillow(place).convert("RGB") if wanted else None
            found.append(1.0 if picture is None else readable(wanted, self.read(_large(picture))))
        return torch.tensor(found, dtype=torch.float32)


def quoted(prompt: str) -> str:
    """The texts in quotes of a prompt, as one; empty where there is none."""
    return " ".join(next(filter(None, found)) for found in _QUOTED.findall(prompt))


def readable(wanted: str, seen: str) -> float:
    """1 less the edit distance of `wanted` to the nearest part of `seen`, over its length."""
    text, image = _plain(wanted), _plain(seen)
    if not text:
        return 1.0
    above = np.zeros(len(image) + 1, int)  # what lies before and behind the part costs nothing
    for row, letter in enumerate(text, start=1):
        here = np.empty(len(image) + 1, int)
        here[0] = row
        for column, other in enumerate(image, start=1):
            change = above[column - 1] + (letter != other)
            here[column] = min(change, above[column] + 1, here[column - 1] + 1)
        above = here
    return max(0.0, 1 - float(above.min()) / len(text))


def _plain(text: str) -> str:
    return "".join(letter for letter in text.casefold() if letter.isalnum())


def _large(picture: Any) -> np.ndarray:
    """Pixels in the order that OpenCV wants, at least `_LEAST_SIDE` on the shorter side."""
    factor = -(-_LEAST_SIDE // min(picture.size))
    if factor > 1:
        picture = picture.resize((picture.width * factor, picture.height * factor))
    return np.asarray(picture)[..., ::-1].copy()


def load(source: str, *, device: str | torch.device, dtype: torch.dtype) -> TextInImage:
    """RapidOCR with the weights of its package.

    Args:
        source: not used; the weights come with the package.
        device: not used; it computes on the CPU.
        dtype: not used.

    Returns:
        The reward model.

    Raises:
        RewardError: the package is not installed.
    """
    if find_spec("rapidocr") is None or find_spec("onnxruntime") is None:
        raise RewardError("ocr: needs rapidocr and onnxruntime: pip install 'tgo[ocr]'")
    import rapidocr

    engine = rapidocr.RapidOCR(params={"Global.log_level": "error"})
    weights = sorted(Path(rapidocr.__file__).parent.rglob("*.onnx"))
    total = hashlib.sha256("".join(map(file_sha256, weights)).encode()).hexdigest()

    def read(pixels: np.ndarray) -> str:
        return " ".join(engine(pixels).txts or ())

    return TextInImage(
        version=version(PACKAGE),
        checkpoint_sha256=total,
        dtype="float32",
        preprocessing=f"RGB, enlarged to {_LEAST_SIDE} pixels on the shorter side",
        read=read,
    )
