"""Image files to pixels: decoded once, and refused in one line where they cannot be scored."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

from tgo.rewards.errors import PictureError

MAX_PIXELS = 89_478_485
"""Most pixels of an image (Pillow's own limit, 268 MB as RGB): more is taken for a bomb."""

MAX_ASPECT = 64
"""Most times that a side may be longer than the other: models resize the shorter side, so a strip
of 8000 x 1 pixels would become 1.8 million pixels long."""

FORMATS = (
    "PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "TGA",
    "ICO",
)  # fmt: skip
"""What is decoded. Not among them: EPS, which Pillow hands to Ghostscript, and rare formats whose
decoders are little tested."""

_RESIZED_ALIKE = ("RGB", "L")
"""Modes in which resizing before or after the conversion to RGB gives the same bytes."""

_ON_ITS_SIDE = (5, 6, 7, 8)
"""Orientations of EXIF that turn an image by a quarter."""

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

    `rgb` drops transparency, and EXIF rotation is ignored, as the official packages do.

    Args:
        source: the encoded image's bytes, its path, or an image that Pillow has opened.

    Returns:
        The pixels, and the Pillow image where models resize it in its own mode.

    Raises:
        PictureError: what is broken, animated, deeper than 8 bits, too large or long, or no image.
    """
    image = open_image(source)
    with _one_kind_of_error():
        rgb = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()
    plain = image.mode in _RESIZED_ALIKE and "transparency" not in image.info
    return Picture(rgb, None if plain else image)


def open_image(source: bytes | str | Path | Image.Image) -> Image.Image:
    """A Pillow image with its pixels loaded; PictureError as for `decode`."""
    with _one_kind_of_error(), warnings.catch_warnings():
        # between its limit and twice that Pillow only warns: we refuse by size
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image = source if isinstance(source, Image.Image) else _open(source)
        _refuse_unsuitable(image)
        image.load()
    return image


def shown_size(source: bytes | str | Path) -> tuple[int, int]:
    """Width and height of an image as viewers show it, without decoding its pixels.

    Args:
        source: the encoded image's bytes, or its path.

    Returns:
        Pixels, exchanged where its EXIF tag says that it lies on its side.

    Raises:
        PictureError: it is no image.
    """
    with _one_kind_of_error(), warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with _open(source) as image:
            width, height = image.size
            turned = False
            with suppress(ValueError, TypeError, KeyError, SyntaxError, ZeroDivisionError):
                turned = image.getexif().get(ExifTags.Base.Orientation) in _ON_ITS_SIDE
    return (height, width) if turned else (width, height)


@contextmanager
def _one_kind_of_error() -> Iterator[None]:
    """Raises PictureError for whatever Pillow raises, since its decoders promise no kind."""
    try:
        yield
    except PictureError:
        raise
    except Image.DecompressionBombError as error:
        raise PictureError(f"too many pixels ({_one_line(error)})") from None
    except UnidentifiedImageError:
        raise PictureError("no image of a format that is read here") from None
    except Exception as error:  # noqa: BLE001
        raise PictureError(f"cannot be decoded ({_one_line(error)})") from None


def _open(source: bytes | str | Path) -> Image.Image:
    if isinstance(source, bytes):
        if not source:
            raise PictureError("empty: zero bytes")
        return Image.open(io.BytesIO(source), formats=_formats())
    path = Path(source)
    if path.exists() and not path.is_file():
        raise PictureError("no ordinary file")
    if path.is_file() and not path.stat().st_size:
        raise PictureError("empty: zero bytes")
    return Image.open(path, formats=_formats())


@cache
def _formats() -> list[str]:
    """Those of `FORMATS` that this Pillow was built with."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _refuse_unsuitable(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise PictureError(f"too many pixels ({width} x {height}, at most {MAX_PIXELS})")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise PictureError(f"a strip of {width} x {height} pixels; cut it")
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
