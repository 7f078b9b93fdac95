from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from rewards import aesthetic, checkpoint
from rewards.base import Batch
from rewards.heads import LinearHead, collapse
from tests.rewards.miniatures import stir


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


def test_the_published_head() -> None:
    """Runs where AESTHETIC_HEAD names the published file: checksum and scores of fixed vectors."""
    place = os.environ.get("AESTHETIC_HEAD")
    if place is None:
        pytest.skip("AESTHETIC_HEAD does not name the published head")
    path = Path(place)
    assert checkpoint.sha256(path) == checkpoint.PUBLISHED_SHA256[aesthetic.WEIGHTS]
    head = LinearHead(768).eval()
    checkpoint.load_strict(head, checkpoint.read_tensors(path), path)
    generator = torch.Generator().manual_seed(0)
    unit = torch.nn.functional.normalize(torch.randn(64, 768, generator=generator), dim=-1)
    torch.testing.assert_close(collapse(head)(unit), head(unit), atol=1e-5, rtol=0)
