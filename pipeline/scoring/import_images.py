"""The bytes of imported rows: pictures fitted to the model, their latents, what could not be read.

This module's source is part of every imported shard's fingerprint, as `produce`'s is of a
generated one's. Batches have one fixed size, the last one padded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from tgo.pipeline.scoring import sampling
from tgo.rewards.errors import PictureError
from tgo.rewards.pictures import decode
from torch import Tensor

if TYPE_CHECKING:
    from tgo.pipeline.generators.base import Family
    from tgo.pipeline.sources.pictures import Pictures, Place


class Encoded(NamedTuple):
    """One row: its picture as trained on, and its latents; or why there are none."""

    png: bytes | None
    latents: np.ndarray | None  # [*latent_shape] in their stored type
    error: str = ""


class Fitted(NamedTuple):
    """A picture as the model sees it, uint8 [3, H, W]; or why there is none."""

    image: Tensor | None
    error: str = ""


def size_of(family: Family) -> tuple[int, int]:
    """Height and width of the model's images in pixels, by decoding one."""
    blank = torch.zeros(1, *family.latent_shape, dtype=family.latent_dtype)
    height, width = family.decode(blank).shape[-2:]
    return height, width


def stored_type(family: Family) -> np.dtype:
    """The type that latents are stored in."""
    return torch.empty(0, dtype=family.latent_dtype).numpy().dtype


def encode(
    family: Family,
    pictures: Pictures,
    places: Sequence[Place],
    *,
    size: tuple[int, int],
    batch_size: int,
    threads: int,
) -> Iterator[Encoded]:
    """Pictures at `places`, in order; read and fitted by threads, encoded in batches."""
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(places), batch_size):
            batch = places[start : start + batch_size]
            fitted = list(pool.map(lambda place: fit(pictures, place, size), batch))
            yield from _encode(family, fitted, batch_size)


def fit(pictures: Pictures, place: Place, size: tuple[int, int]) -> Fitted:
    """A picture cut to the model's shape around its middle and resized; never a crash."""
    try:
        rgb = decode(pictures.read(place)).rgb
    except PictureError as error:
        return Fitted(None, str(error))
    except OSError as error:
        return Fitted(None, f"cannot be read ({error.strerror or error})")
    if tuple(rgb.shape[1:]) == size:
        return Fitted(rgb)
    height, width = size
    whole = Image.fromarray(rgb.permute(1, 2, 0).numpy())
    cut = ImageOps.fit(whole, (width, height), Image.Resampling.LANCZOS)
    return Fitted(torch.from_numpy(np.array(cut)).permute(2, 0, 1).contiguous())


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
        code = next(latents)
        if not code.isfinite().all():
            yield Encoded(
                sampling.encode_png(row.image), None, "encoding gave NaN or infinite latents"
            )
            continue
        yield Encoded(sampling.encode_png(row.image), code.numpy())
