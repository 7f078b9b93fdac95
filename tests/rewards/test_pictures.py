"""Files that cannot be scored are refused in one line; the others become the right pixels."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.rewards.awkward import colours, see_through, write_pictures
from tgo.rewards.base import Batch
from tgo.rewards.errors import PictureError
from tgo.rewards.images import View
from tgo.rewards.pictures import MAX_PIXELS, decode


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def bomb(side: int) -> bytes:
    """A PNG of a few bytes that says it is `side` x `side`."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def deep() -> Image.Image:
    return Image.fromarray(np.full((9, 9), 30_000, dtype=np.uint16))


def floating() -> Image.Image:
    return Image.fromarray(np.ones((9, 9), dtype=np.float32))


def with_text(size: int) -> bytes:
    """A PNG whose compressed text is `size` bytes long when it is unpacked."""
    info = PngInfo()
    info.add_text("parameters", "a" * size, zip=True)
    return encoded(colours(9, 9), "PNG", pnginfo=info)


BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "zero bytes"),
    "text": (lambda: b"this is no image", "no image"),
    "truncated png": (lambda: encoded(colours(50, 50))[:-900], "cannot be decoded"),
    "truncated jpeg": (lambda: encoded(colours(50, 50), "JPEG")[:-300], "cannot be decoded"),
    "animated": (
        lambda: encoded(colours(9, 9), "GIF", save_all=True, append_images=[colours(9, 9, 1)]),
        "animated",
    ),
    "16 bits": (lambda: encoded(deep()), "more than 8 bits"),
    "32 bits": (
        lambda: encoded(Image.fromarray(np.ones((9, 9), dtype=np.float32)), "TIFF"),
        "more than 8 bits",
    ),
    "large": (lambda: bomb(int(MAX_PIXELS**0.5) + 1), "too many pixels"),
    "bomb": (lambda: bomb(60_000), "too many pixels"),
    "strip": (lambda: encoded(Image.new("RGB", (8000, 1))), "a strip of 8000 x 1"),
    "eps": (lambda: encoded(colours(9, 9), "EPS"), "no image of a format"),
    "text bomb": (lambda: with_text(2 << 20), "cannot be decoded"),
}


@pytest.mark.parametrize("name", list(BAD))
def test_bad_files_are_refused(name: str, tmp_path: Path) -> None:
    make, reason = BAD[name]
    data = make()
    (tmp_path / "file").write_bytes(data)
    for source in (data, tmp_path / "file"):
        with pytest.raises(PictureError, match=reason) as caught:
            decode(source)
        assert "\n" not in str(caught.value)


def test_16_bit_colour_is_refused() -> None:
    """Pillow would cut it down to 8 bits without a word."""
    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    data = zlib.compress(b"\x00" + b"\x12\x34" * 3)
    parts = [
        struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d))
        for k, d in ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    ]
    with pytest.raises(PictureError, match="more than 8 bits"):
        decode(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def test_pixels_are_those_of_pillow(tmp_path: Path) -> None:
    for name, path in write_pictures(tmp_path).items():
        picture = decode(path)
        expected = np.array(Image.open(path).convert("RGB")).transpose(2, 0, 1)
        assert np.array_equal(picture.rgb.numpy(), expected), name
        alike = Image.open(path).mode in ("RGB", "L")
        assert (picture.original is None) == alike, name


def test_a_batch_of_mixed_sizes_is_its_parts() -> None:
    pictures = [
        decode(image) for image in (colours(40, 60), see_through(9, 30), colours(40, 60, 1))
    ]
    prompts = ["a", "b", "c"]
    whole = Batch(pictures, prompts)
    pad = View(32, fit="pad", convert="first")
    for view in (View(32), View(32, convert="first"), View(32, convert="white"), pad):
        pixels = whole.pixels(view, torch.float32)
        for place, picture in enumerate(pictures):
            alone = Batch([picture], ["a"]).pixels(view, torch.float32)
            assert torch.equal(pixels[place], alone[0])
        assert whole.pixels(view, torch.float32) is pixels


def test_conversion_first_or_last_matters_for_transparency_only() -> None:
    for image, alike in ((colours(40, 60), True), (see_through(40, 60), False)):
        batch = Batch([decode(image)], ["a"])
        last, first = (batch.pixels(View(32, convert=c), torch.float32) for c in ("last", "first"))
        assert torch.equal(last, first) == alike


def test_images_are_uint8_rgb() -> None:
    with pytest.raises(ValueError, match="no images"):
        Batch([], [])
    with pytest.raises(ValueError, match="each"):
        Batch([torch.zeros(1, 4, 4, dtype=torch.uint8)], ["a"])
