"""The bytes of imported rows: pictures fitted to the model, their latents, what could not be read.

This module's source is part of every imported shard's fingerprint, as that of `sampling` is of a
generated one's. Batches have one fixed size, the last one padded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from tgo.pipeline.generators.sizes import Size, nearest
from tgo.pipeline.scoring import sampling
from tgo.rewards.errors import PictureError
from tgo.rewards.pictures import open_image, shown_size

if TYPE_CHECKING:
    from tgo.pipeline.generators.base import Family
    from tgo.pipeline.sources.pictures import Location, Pictures


class Encoded(NamedTuple):
    """One row: its picture as trained on, and its latents; or why there are none."""

    png: bytes | None
    latents: np.ndarray | None  # [*latent_shape] in their stored type
    error: str = ""


class Fitted(NamedTuple):
    """A picture as the model sees it, uint8 [3, H, W]; or why there is none."""

    image: Tensor | None
    error: str = ""


def choose_size(data: bytes, sizes: Sequence[Size]) -> Size:
    """The size whose shape is nearest to a picture's; the first where it is no picture."""
    if len(sizes) == 1:
        return sizes[0]
    try:
        return nearest(*shown_size(data), sizes)
    except PictureError:
        return sizes[0]


def stored_type(family: Family) -> np.dtype:
    """The type that latents are stored in."""
    return torch.empty(0, dtype=family.latent_dtype).numpy().dtype


def encode(
    family: Family,
    pictures: Pictures,
    locations: Sequence[Location],
    *,
    size: Size,
    batch_size: int,
    threads: int,
) -> Iterator[Encoded]:
    """Pictures in order; read and fitted by threads, encoded in batches."""
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(locations), batch_size):
            batch = locations[start : start + batch_size]
            fitted = list(pool.map(lambda location: fit(pictures, location, size), batch))
            yield from _encode(family, fitted, batch_size)


def fit(pictures: Pictures, location: Location, size: Size) -> Fitted:
    """A picture as its rater saw it, cut to a size's shape around its middle and resized.

    Args:
        pictures: What reads it.
        location: Where it lies.
        size: What it becomes.

    Returns:
        uint8 [3, H, W], or the reason why there is no picture.
    """
    try:
        image = as_seen(open_image(pictures.read(location)))
        if image.size != size:
            image = ImageOps.fit(image, size, Image.Resampling.LANCZOS)
    except PictureError as error:
        return Fitted(None, str(error))
    except OSError as error:
        return Fitted(None, f"cannot be read ({error.strerror or error})")
    return Fitted(torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous())


def as_seen(image: Image.Image) -> Image.Image:
    """An image in RGB as viewers show it: turned as its EXIF tag says, transparency on white."""
    with suppress(ValueError, TypeError, KeyError, SyntaxError, ZeroDivisionError):
        image = ImageOps.exif_transpose(image)  # a tag that is damaged turns nothing
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _encode(family: Family, fitted: Sequence[Fitted], batch_size: int) -> Iterator[Encoded]:
    images = [row.image for row in fitted if row.image is not None]
    latents: Iterator[Tensor] = iter(())
    if images:
        padded = images + [images[-1]] * (batch_size - len(images))
        latents = iter(family.encode(torch.stack(padded)))
    for row in fitted:
        if row.image is None:
            yield Encoded(None, None, row.error)
            continue
        encoded = next(latents)
        if not encoded.isfinite().all():
            yield Encoded(
                sampling.encode_png(row.image), None, "encoding gave NaN or infinite latents"
            )
            continue
        yield Encoded(sampling.encode_png(row.image), encoded.numpy())
