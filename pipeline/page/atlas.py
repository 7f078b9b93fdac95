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
    sizes: list[tuple[int, int]] | None = None
    """Width and height of each picture, where not all of them fill their tile."""


def pack(pictures: Sequence[Image.Image]) -> Atlas:
    """At least one picture as an atlas; the same bytes for the same pictures.

    A tile has room for the widest and the highest of them.
    """
    sizes = [picture.size for picture in pictures]
    width, height = (max(sides) for sides in zip(*sizes, strict=True))
    columns = min(math.ceil(math.sqrt(len(pictures) * height / width)), _LARGEST // width)
    rows = math.ceil(len(pictures) / columns)
    sheet = Image.new("RGB", (columns * width, rows * height))
    for place, picture in enumerate(pictures):
        sheet.paste(picture, (place % columns * width, place // columns * height))
    alike = len(set(sizes)) == 1
    return Atlas(data_uri(sheet), columns, width, height, None if alike else sizes)


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
    """Images uint8 ``[H, W, 3]`` side by side, reduced, as a link; nothing below the lower ones."""
    small = []
    for image in images:
        picture = Image.fromarray(image)
        picture.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
        small.append(picture)
    width, height = sum(each.width for each in small), max(each.height for each in small)
    sheet = Image.new("RGBA", (width, height))
    left = 0
    for picture in small:
        sheet.paste(picture, (left, 0))
        left += picture.width
    return data_uri(sheet)
