from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tests.settings import PARAMS, changed
from tgo.data.world.judge import judge
from tgo.pipeline.generators import load_generator
from tgo.pipeline.scoring import sampling
from tgo.pipeline.sources.prompts import Prompt

COUNT = 16
KINDS = {
    "diffusion": {"family": "diffusion", "model": "data/world/diffusion", "guidance_scale": 2.0},
    "masked": {"family": "amused", "model": "data/world/masked", "guidance_scale": 3.0},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_pictures_keep_what_their_own_prompt_promises(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(PARAMS.parent)
    chosen: dict[str, Any] = {**KINDS[kind], "steps": 8, "dtype": "float32"}
    family = load_generator(changed({"generator": chosen}).generator)
    with open("data/prompts/validation.jsonl") as file:
        texts = [json.loads(next(file))["prompt"] for _ in range(COUNT)]
    given = sampling.embed(family, texts, COUNT)
    rows = sampling.rows_of(
        [Prompt(text, text, "all") for text in texts], seed=0, images_per_prompt=1
    )
    (sampled,) = sampling.sample(family, rows, given, COUNT)
    pictures = sampling.decode(family, sampled).permute(0, 2, 3, 1).numpy()
    own = np.mean([verdict.share for verdict in judge(pictures, texts)])
    others = np.mean([verdict.share for verdict in judge(pictures, [*texts[1:], texts[0]])])
    assert own > 0.6
    assert own > others + 0.2
