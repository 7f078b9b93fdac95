"""The benchmark runs, and its rivals do the same work."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest
import torch

from benchmarks import reward_sizes, score
from benchmarks.reward_sizes import Size, Tower
from tgo.rewards.blip import VisionConfig
from tgo.rewards.panel import Panel, load

PROMPTS = ["a red circle", "a red circle", "a blue square", "a blue square"]
NAMES = ("hpsv2", "imagereward", "clip", "aesthetic", "pickscore")


def test_every_rival_gives_the_same_scores(tiny_rewards: dict[str, str]) -> None:
    images = score.pictures(4, 40)
    pixels = score.decoded(images)
    panel = Panel.load(tiny_rewards)
    models = {name: load(name, source) for name, source in tiny_rewards.items()}
    ours = score.Ours(panel, 3, pixels)(images, PROMPTS)
    separate = score.Separate(models, 3, pixels, "cpu", cached=True)(images, PROMPTS)
    uncached = score.Separate(models, 3, pixels, "cpu", cached=False)(images, PROMPTS)
    theirs = score.Official(tiny_rewards, "cpu")(images, PROMPTS)
    for name in NAMES:
        for rival in (separate, uncached):
            torch.testing.assert_close(rival[name], ours[name], atol=2e-5, rtol=0, msg=name)
        assert theirs[name].shape == ours[name].shape
    for name in ("hpsv2", "imagereward", "clip"):
        torch.testing.assert_close(theirs[name], ours[name], atol=2e-5, rtol=0, msg=name)


def test_what_is_reported(tiny_rewards: dict[str, str]) -> None:
    options = Namespace(
        size="miniature", device="cpu", dtype="float32", images=4, per_prompt=2, batch=2,
        repeats=1, threads=1, compile=False, jpeg=True, official=False,
    )  # fmt: skip
    found = score.run(options, tiny_rewards, score.pictures(4, 40), PROMPTS)
    rivals = {"panel", "panel from JPEG", "separate", "separate, no cache"}
    assert set(found["images_per_s"]) == rivals
    assert all(speed > 0 for speed in found["images_per_s"].values())
    assert found["panel_is_faster_by"]["panel"] == 1
    assert found["gflop_per_image"] > 0
    assert found["weights_gb"] > 0


def test_models_of_any_size_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = Tower(64, 1, 1)
    tiny = Size(
        (small, small, 112, 16),
        (small, small, 112, 768),
        VisionConfig(patch_size=112, width=64, depth=1, heads=1),
        bert_layers=1,
    )
    monkeypatch.setitem(reward_sizes.LAYOUTS, "tiny", tiny)
    panel = Panel.load(reward_sizes.write("tiny", tmp_path))
    found = panel.score(score.decoded(score.pictures(2, 224)), ["a", "b"])
    assert set(found) == set(NAMES)
    assert all(values.isfinite().all() for values in found.values())
