"""The crop equals torchvision's and transformers' on Pillow images; the pad equals HPSv2's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as tv
from PIL import Image
from torchvision import transforms
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from tgo.rewards.images import MEAN, STD, View, crop, device_crop, render

SIZES = [(32, 32), (64, 64), (50, 31), (35, 32), (33, 80), (1, 1), (7, 300), (300, 7), (129, 100)]


def picture(height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(height * 1000 + width)
    return torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8, generator=generator)


def pillow(image: torch.Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_crop_is_the_reference_of_clip_and_imagereward(height: int, width: int) -> None:
    images = picture(height, width)
    reference = transforms.Compose(
        [
            transforms.Resize(32, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(32),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    ours = render(images, View(32).place(height, width))
    assert torch.equal(ours, torch.stack([reference(pillow(image)) for image in images]))


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_crop_is_the_reference_of_pickscore(height: int, width: int) -> None:
    images = picture(height, width)
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    reference = processor([pillow(image) for image in images], return_tensors="np")
    ours = render(images, View(32, centre="floor").place(height, width))
    np.testing.assert_allclose(ours.numpy(), np.stack(reference["pixel_values"]), atol=1e-6)


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("size", [16, 32, 56])
def test_device_arithmetic_is_pillow_bit_for_bit(height: int, width: int, size: int) -> None:
    images = picture(height, width)
    place = View(size).place(height, width)
    expected = [
        tv.center_crop(
            pillow(image).resize((place.wide, place.tall), Image.Resampling.BICUBIC), [size, size]
        )
        for image in images
    ]
    stacked = torch.stack([tv.pil_to_tensor(image) for image in expected])
    assert torch.equal(device_crop(images, place), stacked)
    assert torch.equal(crop(images, place), stacked)


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (50, 31), (33, 80), (20, 9)])
def test_pad_is_the_reference_of_hpsv2(height: int, width: int, antialias: bool) -> None:
    """HPSv2's `ResizeMaxSize`, written out."""
    image = tv.pil_to_tensor(pillow(picture(height, width)[0])).float() / 255
    scale = 32 / max(height, width)
    tall, wide = round(height * scale), round(width * scale)
    bicubic = tv.InterpolationMode.BICUBIC
    image = tv.resize(image, [tall, wide], bicubic, antialias=antialias)
    down, right = 32 - tall, 32 - wide
    image = tv.pad(image, [right // 2, down // 2, right - right // 2, down - down // 2], fill=0)
    expected = tv.normalize(image, list(MEAN), list(STD))
    place = View(32, fit="pad", antialias=antialias).place(height, width)
    assert torch.allclose(render(picture(height, width), place)[0], expected, atol=1e-6)


def test_pad_fills_also_where_nothing_is_resized() -> None:
    """The official transform leaves a 32 x 20 image unpadded, which no square model can read."""
    assert render(picture(32, 20), View(32, fit="pad").place(32, 20)).shape == (2, 3, 32, 32)


def test_views_of_square_images_are_shared() -> None:
    assert View(32).place(64, 64) == View(32, centre="floor").place(64, 64)
    assert View(32).place(35, 32) != View(32, centre="floor").place(35, 32)


def test_a_view_says_its_antialias_setting() -> None:
    assert "antialias off" in str(View(224, fit="pad", antialias=False))
    assert "antialias on" in str(View(224))
