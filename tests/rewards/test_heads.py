from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from tests.rewards.miniatures import stir
from tgo.rewards import aesthetic, checkpoint, weight_files
from tgo.rewards.base import Batch
from tgo.rewards.checksum import file_sha256
from tgo.rewards.heads import LinearHead, collapse
from tgo.rewards.panel import Panel

PUBLISHED = [4.545052, 4.679652, 4.915477]
"""Scores of the first three unit vectors by the published head (bias 5.236646), in float64."""


@pytest.mark.parametrize("width", [32, 768])
def test_the_collapsed_head_is_the_head(width: int) -> None:
    torch.manual_seed(0)
    head = stir(LinearHead(width)).eval()
    features = torch.randn(50, width)
    exact = head.double()(features.double())
    affine = collapse(head)
    assert affine.weight.dtype == torch.float32
    torch.testing.assert_close(affine(features).double(), exact, atol=1e-5, rtol=1e-6)


def test_heads_compute_in_float32_from_16_bit_features() -> None:
    affine = collapse(LinearHead(8))
    assert affine(torch.randn(3, 8).half()).dtype == torch.float32


@torch.inference_mode()
def test_aesthetic_scores_the_normalised_embedding(
    sources: dict[str, str], images: torch.Tensor
) -> None:
    model = aesthetic.load(sources["aesthetic"])
    batch = Batch(images, [""] * len(images))
    head = LinearHead(768).eval()
    path = Path(sources["aesthetic"]) / aesthetic.WEIGHTS
    head.load_state_dict(torch.load(path, weights_only=True))
    embedding = model.tower.embed(batch)
    torch.testing.assert_close(embedding.norm(dim=-1), torch.ones(len(images)))
    torch.testing.assert_close(model.score(batch), head(embedding), atol=1e-5, rtol=0)


def test_aesthetic_reads_no_prompt(sources: dict[str, str], images: torch.Tensor) -> None:
    model = aesthetic.load(sources["aesthetic"])
    one, two = (model.score(Batch(images, [text] * len(images))) for text in ("red", "blue"))
    assert torch.equal(one, two)


def published_head() -> Path:
    """The published file: that of AESTHETIC_HEAD, or in `shared/weights` beside the repository."""
    beside = Path(__file__).parents[3] / "shared/weights" / aesthetic.WEIGHTS
    path = Path(os.environ.get("AESTHETIC_HEAD", beside))
    if not path.is_file():
        pytest.skip(f"no published head at {path}; name it in AESTHETIC_HEAD")
    return path


def test_the_published_head() -> None:
    """Its checksum, and its scores of fixed embeddings."""
    path = published_head()
    assert file_sha256(path) == checkpoint.PUBLISHED_SHA256[aesthetic.WEIGHTS]
    head = LinearHead(768).eval()
    checkpoint.load_strict(head, weight_files.read_tensors(path), path)
    generator = torch.Generator().manual_seed(0)
    unit = torch.nn.functional.normalize(torch.randn(64, 768, generator=generator), dim=-1)
    scores = collapse(head)(unit)
    torch.testing.assert_close(scores.double(), head.double()(unit.double()), atol=1e-5, rtol=0)
    assert collapse(head)(torch.eye(768)[:3]).tolist() == pytest.approx(PUBLISHED, abs=1e-5)


@torch.inference_mode()
def test_the_published_head_in_a_panel(
    sources: dict[str, str], images: torch.Tensor, prompts: list[str]
) -> None:
    path = published_head()
    panel = Panel.load({"clip": sources["clip"], "aesthetic": str(path)})
    facts = panel.describe()["aesthetic"]
    assert facts["version"] == aesthetic.WEIGHTS.removesuffix(".pth")
    assert facts["checkpoint_sha256"] == checkpoint.PUBLISHED_SHA256[aesthetic.WEIGHTS]
    head = LinearHead(768).eval()
    head.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
    tower = aesthetic.load(path, clip=sources["clip"]).tower
    expected = head(tower.embed(Batch(images, prompts)))
    scores = panel.score(images, prompts)["aesthetic"]
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=0)
