"""A metric of pyiqa, with the sign by which higher is better; needs pyiqa (docs/rewards.md)."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch
from PIL import ImageFilter
from torchvision.transforms.functional import pil_to_tensor

from tests.rewards.awkward import colours
from tgo.rewards.errors import CheckpointError, RewardError
from tgo.rewards.panel import Panel

HERE = importlib.util.find_spec("pyiqa") is not None
needs_pyiqa = pytest.mark.skipif(not HERE, reason="pyiqa is not installed")


def quality(metric: str) -> dict[str, Any]:
    return {"q": {"module": "tgo.rewards.image_quality", "options": {"metric": metric}}}


@needs_pyiqa
def test_scores_are_pyiqas_own_and_higher_is_better() -> None:
    import pyiqa

    sharp = colours(96, 64, seed=1)
    pictures = [sharp, sharp.filter(ImageFilter.GaussianBlur(3)), colours(64, 64, seed=2)]
    images = [pil_to_tensor(picture) for picture in pictures]
    for metric, sign in (("piqe", -1.0), ("entropy", 1.0)):
        panel = Panel.load(quality(metric))
        own = pyiqa.create_metric(metric, device="cpu")
        wanted = torch.cat([sign * own(image[None] / 255).flatten() for image in images])
        torch.testing.assert_close(panel.score(images, [""] * 3)["q"], wanted.float())
    assert panel.describe()["q"]["version"].startswith("pyiqa ")
    assert len(panel.describe()["q"]["checkpoint_sha256"]) == 64


@needs_pyiqa
def test_metrics_that_need_a_reference_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"no metric 'psnr' .* piqe"):
        Panel.load(quality("psnr"))


@pytest.mark.skipif(HERE, reason="pyiqa is installed")
def test_without_the_package_the_line_says_how_to_get_it() -> None:
    with pytest.raises(RewardError, match="pip install pyiqa"):
        Panel.load(quality("piqe"))
