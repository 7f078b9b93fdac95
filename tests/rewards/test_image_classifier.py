"""A classifier's score is what transformers' own pipeline says of the class."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import (
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    pipeline,
)

from tests.rewards.awkward import colours
from tests.rewards.test_open_clip_model import as_tensor
from tgo.rewards.errors import CheckpointError
from tgo.rewards.panel import Panel


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random ViT with two classes, as `save_pretrained` writes it."""
    place = tmp_path_factory.mktemp("classifier") / "nsfw"
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        image_size=32, patch_size=8, id2label={0: "normal", 1: "nsfw"},
        label2id={"normal": 0, "nsfw": 1}, initializer_range=0.5,
    )  # fmt: skip
    ViTForImageClassification(config).save_pretrained(place)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(place)
    return place


def spec(folder: Path, label: str = "nsfw") -> dict[str, object]:
    module = "tgo.rewards.image_classifier"
    return {"module": module, "source": str(folder), "options": {"label": label}}


def test_the_score_is_the_probability_of_the_class(folder: Path) -> None:
    pictures = [colours(40, 56, seed=seed) for seed in range(3)]
    panel = Panel.load({"nsfw": spec(folder), "normal": spec(folder, "normal")})
    found = panel.score([as_tensor(picture) for picture in pictures], [""] * 3)
    classify = pipeline("image-classification", model=str(folder), device="cpu")
    said = [{one["label"]: one["score"] for one in each} for each in classify(pictures)]
    wanted = torch.tensor([each["nsfw"] for each in said])
    torch.testing.assert_close(found["nsfw"], wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found["nsfw"] + found["normal"], torch.ones(3))
    assert wanted.std() > 1e-3
    facts = panel.describe()["nsfw"]
    assert (facts["model"], facts["unit"]) == ("nsfw: nsfw", "probability")


def test_a_class_that_is_not_there_is_told(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no class 'nudity'; .* one of normal, nsfw"):
        Panel.load({"nsfw": spec(folder, "nudity")})
    with pytest.raises(CheckpointError, match=r"holds no model\.safetensors .*, config\.json"):
        Panel.load({"nsfw": spec(tmp_path)})


def test_other_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    for name in ("model.safetensors", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    values = json.loads((folder / "config.json").read_text()) | {"hidden_size": 64}
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="take the folder as published"):
        Panel.load({"nsfw": spec(tmp_path)})
