"""The graded judge: it recovers from pixels the parameters a picture was rendered with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import spearmanr

from tgo.data.world.candidates import merits, vary
from tgo.data.world.judge import judge as judge_alone
from tgo.data.world.raters import MERITS, POPULATIONS, kept
from tgo.data.world.render import QUALITIES, draw, draw_quality, lay_out, render
from tgo.data.world.scene import Scene, caption, draw_scene
from tgo.data.world.sketches import drawn_scene, paint, sketch
from tgo.data.world.truth import judge

FAINTEST = {"contrast": 0.95, "sharpness": 0.9, "harmony": 0.95, "composition": 0.75}
"""Least rank correlations. A picture shows composition only through 14 binary choices."""


def renders(
    rng: np.random.Generator, count: int
) -> tuple[list[Scene], NDArray[np.uint8], NDArray[np.float32]]:
    """Captions' scenes, pictures that keep some of their promises, and their true merits."""
    scenes = [draw_scene(rng) for _ in range(count)]
    quality = draw_quality(rng, count)
    layout = lay_out(rng, [vary(rng, scene) for scene in scenes], quality)
    worth = [
        (*kept(scene, drawn_scene(layout, row)), *quality[row], 1.0)
        for row, scene in enumerate(scenes)
    ]
    return scenes, render(rng, layout), np.array(worth, np.float32)


def read(scenes: Sequence[Scene], images: NDArray[np.uint8]) -> NDArray[np.float32]:
    verdicts = judge(images, [caption(scene) for scene in scenes])
    return np.stack([verdict.merits for verdict in verdicts])


def rank(one: NDArray, other: NDArray) -> float:
    return float(spearmanr(one, other).statistic)


@pytest.mark.parametrize("count", [300, pytest.param(3000, marks=pytest.mark.slow)])
def test_utilities_rank_renders_as_their_parameters_do(count: int) -> None:
    scenes, images, true = renders(np.random.default_rng(77), count)
    found = read(scenes, images)
    for name, people in POPULATIONS.items():
        assert rank(people.utility(true), people.utility(found)) >= 0.95, name
    for name in QUALITIES:
        column = MERITS.index(name)
        assert rank(true[:, column], found[:, column]) >= FAINTEST[name], name


def test_utilities_rank_deformed_pictures_too() -> None:
    rng = np.random.default_rng(78)
    scenes = [draw_scene(rng) for _ in range(300)]
    drawn = sketch(rng, [vary(rng, scene) for scene in scenes], draw_quality(rng, 300))
    none = np.zeros(300, np.float32)
    true = merits(scenes, drawn, none, none.astype(bool))
    found = read(scenes, paint(rng, drawn))
    for name, people in POPULATIONS.items():
        assert rank(people.utility(true), people.utility(found)) >= 0.87, name


def test_the_verdict_is_the_judges() -> None:
    rng = np.random.default_rng(79)
    scenes = [draw_scene(rng) for _ in range(40)]
    images = draw(rng, scenes, draw_quality(rng, 40))
    texts = [caption(scene) for scene in scenes]
    for graded, plain in zip(judge(images, texts), judge_alone(images, texts), strict=True):
        assert (graded.all_right, graded.share) == (plain.all_right, plain.share)


def test_an_empty_picture_has_a_utility() -> None:
    scene = draw_scene(np.random.default_rng(80))
    graded = judge(np.full((1, 64, 64, 3), 128, np.uint8), [caption(scene)])[0]
    assert not graded.all_right
    assert all(np.isfinite(value) for value in graded.grades.values())


def test_pictures_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="64 x 64"):
        judge(np.zeros((1, 32, 32, 3), np.uint8), ["a red circle on a white background"])
