"""The gold judge: right on clean pictures, and never fooled by a wrong one."""

from __future__ import annotations

import numpy as np
import pytest

from tgo.data.world.judge import judge
from tgo.data.world.render import draw, draw_quality
from tgo.data.world.scene import caption, confuse, draw_scene


def test_right_on_clean_pictures() -> None:
    rng = np.random.default_rng(11)
    scenes = [draw_scene(rng) for _ in range(1000)]
    verdicts = judge(draw(rng, scenes), [caption(scene) for scene in scenes])
    assert np.mean([verdict.all_right for verdict in verdicts]) >= 0.995


def test_mostly_right_on_web_pictures() -> None:
    rng = np.random.default_rng(12)
    scenes = [draw_scene(rng) for _ in range(400)]
    images = draw(rng, scenes, draw_quality(rng, 400))
    verdicts = judge(images, [caption(scene) for scene in scenes])
    assert np.mean([verdict.all_right for verdict in verdicts]) >= 0.95


def test_a_wrong_word_is_seen() -> None:
    rng = np.random.default_rng(13)
    scenes = [draw_scene(rng) for _ in range(400)]
    told = [confuse(rng, scene) for scene in scenes]
    images = draw(rng, scenes)
    pairs = [
        verdict
        for verdict, scene, text in zip(
            judge(images, [caption(scene) for scene in told]), scenes, told, strict=True
        )
        if scene != text
    ]
    assert np.mean([verdict.all_right for verdict in pairs]) < 0.01
    assert 0.5 < np.mean([verdict.share for verdict in pairs]) < 0.95


def test_empty_and_noisy_pictures_keep_no_promise_of_a_thing() -> None:
    blank = np.full((1, 64, 64, 3), 245, np.uint8)
    (verdict,) = judge(blank, ["a red circle on a white background"])
    assert not verdict.all_right
    assert verdict.share == pytest.approx(1 / 4)  # the background alone
    noise = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    assert not judge(noise, ["a red circle on a white background"])[0].all_right


def test_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="64 x 64"):
        judge(np.zeros((1, 32, 32, 3), np.uint8), ["a red circle on a white background"])
