"""Many small pictures as one compressed image: what keeps a page of hundreds of pairs small.

A picture of up to ``THUMBNAIL`` pixels goes in at its own size. Larger ones are reduced for the
page, and lie at full size as files beside it.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

THUMBNAIL = 160
"""Pixels a side of a picture in the page."""
QUALITY = 80
_LARGEST = 16383  # pixels a side of a WebP file


@dataclass(frozen=True)
class Atlas:
    """Tiles row by row in one image; ``source`` is a data URI."""

    source: str
    columns: int
    width: int
    height: int


def pack(pictures: Sequence[Image.Image]) -> Atlas:
    """Pictures of one size, at least one, as an atlas; the same bytes for the same pictures."""
    width, height = pictures[0].size
    columns = min(math.ceil(math.sqrt(len(pictures) * height / width)), _LARGEST // width)
    rows = math.ceil(len(pictures) / columns)
    sheet = Image.new("RGB", (columns * width, rows * height))
    for place, picture in enumerate(pictures):
        sheet.paste(picture, (place % columns * width, place // columns * height))
    return Atlas(data_uri(sheet), columns, width, height)


def thumbnail(image: bytes) -> Image.Image:
    """A stored picture, no side larger than ``THUMBNAIL``."""
    picture = Image.open(io.BytesIO(image)).convert("RGB")
    if max(picture.size) > THUMBNAIL:
        picture.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    return picture


def data_uri(picture: Image.Image) -> str:
    """A picture as WebP inside a link."""
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=QUALITY, method=6)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def strip(images: Iterable[np.ndarray]) -> str:
    """Images uint8 ``[H, W, 3]`` side by side, reduced, as a link."""
    small = []
    for image in images:
        picture = Image.fromarray(image)
        picture.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
        small.append(np.asarray(picture))
    return data_uri(Image.fromarray(np.concatenate(small, axis=1)))
