"""Every family through all stages: prompts in, a tuned model of its own kind out."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import label, shards
from pipeline.generators import load_generator
from pipeline.settings import Settings
from tests.families import FAMILY_OF, GUIDANCE, PROMPTS, SEEDS, sample, write
from tests.family_parts import RESOLUTION
from tests.stage_one import PROMPTS as TRAINING
from tests.stage_one import score_into
from tests.trainer.miniature import Place, make_settings
from trainer import train

KINDS = ["sd15", "sd21", "sdxl", "sd3", "flux", "zimage", "wan", "amused", "meissonic"]


def settings_of(kind: str, model: Path, **changes: Any) -> Settings:
    options = {"temperature": 1.0, "batch_size": 4, "updates": 4, "ema_decay": 0.0} | changes
    found = make_settings(model, family=FAMILY_OF.get(kind, kind), **options)
    sampler = {"resolution": RESOLUTION, "guidance_scale": GUIDANCE}
    generator = found.generator.model_copy(update=sampler)
    return found.model_copy(update={"generator": generator})


@pytest.mark.parametrize("kind", KINDS)
def test_a_family_goes_through_all_stages(kind: str, tmp_path: Path, tiny_panel: Any) -> None:
    settings = settings_of(kind, write(kind, tmp_path / "model"))
    base = load_generator(settings.generator)
    score_into(tmp_path, base, tiny_panel, TRAINING[:4])
    place = Place(tmp_path)
    facts = label.label_folder(**_without_embeddings(place), rule=settings.label, seed=0)
    assert facts["positives"] > 0
    stored = shards.read_metadata(shards.shard_paths(place.inputs["scored"])[0])
    assert stored["tgo.codes"]["shape"] == list(base.code_shape)

    torch.manual_seed(0)
    tuned = train.run(settings, **place.inputs, **place.outputs())
    lines = [json.loads(line) for line in place.outputs()["log"].read_text().splitlines()]
    assert lines
    assert all(math.isfinite(line["loss"]) for line in lines)

    found = load_generator(settings.generator, tuned)
    assert found.describe()["family"] == base.describe()["family"]
    assert not torch.equal(sample(found, PROMPTS, SEEDS), sample(base, PROMPTS, SEEDS))


def _without_embeddings(place: Place) -> dict[str, Path]:
    return {name: path for name, path in place.inputs.items() if name != "embeddings"}
