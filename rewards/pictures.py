"""Image files to pixels: decoded once, and refused in one line where they cannot be scored."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from tgo.rewards.errors import PictureError
from torch import Tensor

MAX_PIXELS = 89_478_485
"""Most pixels of an image (Pillow's own limit, 268 MB as RGB): more is taken for a bomb."""

_RESIZED_ALIKE = ("RGB", "L")
"""Modes in which resizing before or after the conversion to RGB gives the same bytes."""

_DEEP = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")


class Picture(NamedTuple):
    """A decoded image: uint8 RGB [3, H, W], and itself where models resize it in its own mode.

    CLIP, the Aesthetic predictor and ImageReward resize before they convert to RGB, which gives
    other pixels than the other way round for palettes, transparency and CMYK; PickScore lays
    transparency over white.
    """

    rgb: Tensor
    original: Image.Image | None = None


def decode(source: bytes | str | Path | Image.Image) -> Picture:
    """Decodes an encoded image, a file or a Pillow image.

    `rgb` drops transparency, and EXIF rotation is ignored, as the official packages do. Raises
    PictureError for what is broken, animated, deeper than 8 bits, too large, or no image.
    """
    try:
        with warnings.catch_warnings():
            # between its limit and twice that Pillow only warns: we refuse by size
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = source if isinstance(source, Image.Image) else _open(source)
        _refuse_unsuitable(image)
        image.load()
        rgb = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()
    except Image.DecompressionBombError as error:
        raise PictureError(f"too many pixels ({_one_line(error)})") from None
    except UnidentifiedImageError:
        raise PictureError("no image that Pillow can read") from None
    except (OSError, SyntaxError, EOFError, struct.error, zlib.error, MemoryError) as error:
        raise PictureError(f"cannot be decoded ({_one_line(error)})") from None
    plain = image.mode in _RESIZED_ALIKE and "transparency" not in image.info
    return Picture(rgb, None if plain else image)


def _open(source: bytes | str | Path) -> Image.Image:
    if isinstance(source, bytes):
        if not source:
            raise PictureError("empty: zero bytes")
        return Image.open(io.BytesIO(source))
    if Path(source).is_file() and not Path(source).stat().st_size:
        raise PictureError("empty: zero bytes")
    return Image.open(source)


def _refuse_unsuitable(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise PictureError(f"too many pixels ({width} x {height}, at most {MAX_PIXELS})")
    # an MPO is a photograph with a preview or a second view beside it
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise PictureError(f"animated ({getattr(image, 'n_frames', '?')} frames)")
    if image.mode in _DEEP or _is_deep_colour(image):
        raise PictureError("more than 8 bits a channel; convert it to 8 bits")


def _is_deep_colour(image: Image.Image) -> bool:
    """Whether Pillow will cut a file of 16 bits a channel down to 8 while reading it."""
    return any(";16" in str(tile[-1]) for tile in getattr(image, "tile", None) or ())


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text[:160] or type(error).__name__
