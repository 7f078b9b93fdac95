"""Sizes of images (aspect-ratio buckets): which one a prompt's images get, which one a picture."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

Resolution = int | Sequence[Sequence[int]] | None
"""As params.yaml has it: pixels a side, [width, height] of several sizes, or the model's own."""


class Size(NamedTuple):
    """Of an image, in pixels."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width} x {self.height}"


def sizes_of(resolution: Resolution) -> tuple[Size, ...]:
    """The sizes that a setting names; none where it leaves them to the model."""
    if resolution is None:
        return ()
    if isinstance(resolution, int):
        return (Size(resolution, resolution),)
    return tuple(Size(*size) for size in resolution)


def choose(prompt_id: str, sizes: Sequence[Size], wanted: Size | None = None) -> Size:
    """The size of the images that are made of a prompt.

    Args:
        prompt_id: the prompt's.
        sizes: those that there are.
        wanted: of the shape that the prompt asks for, if it does.

    Returns:
        The size nearest to what is wanted, else the one with the largest hash of both: another
        size, or one less, then changes the images of no more prompts than it has to.
    """
    if wanted is not None:
        return nearest(*wanted, sizes)
    return max(sizes, key=lambda size: hashlib.sha256(f"{size} {prompt_id}".encode()).digest())


def nearest(width: int, height: int, sizes: Sequence[Size]) -> Size:
    """The size whose ratio of height to width is nearest to a picture's, as diffusers chooses."""
    from diffusers.image_processor import PixArtImageProcessor

    ratios = {size.height / size.width: (size.height, size.width) for size in sizes}
    found = PixArtImageProcessor.classify_height_width_bin(height, width, ratios)
    return Size(found[1], found[0])
