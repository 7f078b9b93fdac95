"""The builder: five models in the published formats, trained for a step and read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tgo.data.world import contrastive, fit, preferences, reward_models
from tgo.data.world.bank import Bank
from tgo.data.world.candidates import Candidates
from tgo.data.world.contrastive import REMARKS, remark
from tgo.data.world.raters import MERITS
from tgo.data.world.render import QUALITIES, draw, draw_quality
from tgo.data.world.reward_models import NAMES, agreement, build_reward_models, measure
from tgo.data.world.scene import caption, draw_scene
from tgo.rewards.panel import Panel


def little_bank(rng: np.random.Generator, count: int = 256) -> Bank:
    scenes = [draw_scene(rng) for _ in range(count)]
    quality = draw_quality(rng, count)
    texts = [caption(scene) for scene in scenes]
    return Bank(draw(rng, scenes, quality), quality, texts, texts)


def little_candidates(bank: Bank) -> Candidates:
    """Groups of pictures of random worth, which is enough to run a step."""
    merits = np.random.default_rng(1).random((len(bank.images) // 4, 4, len(MERITS)))
    return Candidates(
        bank.images.reshape(-1, 4, 64, 64, 3), bank.captions[::4], merits.astype(np.float32)
    )


@pytest.mark.slow
def test_the_panel_is_built_and_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bank = little_bank(np.random.default_rng(0))
    monkeypatch.setattr(fit, "BUILD", tmp_path / "build")
    monkeypatch.setattr(contrastive, "STEPS", 1)
    monkeypatch.setattr(contrastive, "BATCH", 8)
    monkeypatch.setattr(preferences, "STEPS", dict.fromkeys(preferences.STEPS, 1))
    monkeypatch.setattr(preferences, "PROMPTS", 4)
    monkeypatch.setattr(preferences, "PICTURES_TO_MATCH", 4)
    monkeypatch.setattr(preferences, "CALIBRATION", 8)
    monkeypatch.setattr(reward_models, "load_candidates", lambda chunks: little_candidates(bank))
    monkeypatch.setattr(reward_models, "HEAD_STEPS", 1)
    monkeypatch.setattr(reward_models, "CAPTIONS", 32)
    folder = tmp_path / "rewards"
    build_reward_models(bank, folder)
    build_reward_models(bank, folder)  # nothing left to train
    Panel.load({name: str(folder / name) for name in NAMES})
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert size < 25e6
    found = measure(folder)
    assert set(found["ranks_like_raters"]) == {"pickscore", "hpsv2", "imagereward", "aesthetic"}
    assert len(found["correlation"]) == 10
    assert all(0 <= share <= 1 for share in found["clip"].values())


def test_agreement_counts_pairs_within_a_prompt() -> None:
    utility = np.array([[0.0, 1.0, 2.0], [5.0, 5.0, 7.0]], np.float32)
    assert agreement(utility, utility) == 1
    assert agreement(-utility, utility) == 0
    assert agreement(np.array([[0.0, 2.0, 1.0], [9.0, 3.0, 10.0]], np.float32), utility) == 0.8


def test_remarks_are_true() -> None:
    rng = np.random.default_rng(0)
    for which, (low, high) in enumerate(REMARKS):
        for value, word in ((0.1, low), (0.99, high)):
            quality = np.full(len(QUALITIES), 0.6, np.float32)
            quality[which] = value
            said = {remark(rng, "a red circle", quality) for _ in range(200)}
            assert said == {"a red circle", f"a red circle, {word}"}
