"""Pictures: deterministic, inside the frame, and worse where quality says so."""

from __future__ import annotations

import numpy as np
import pytest

from tgo.data.world.render import QUALITIES, SIDE, draw, draw_quality, lay_out
from tgo.data.world.scene import Scene, draw_scene


def scenes(count: int, seed: int = 0) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [draw_scene(rng) for _ in range(count)]


def test_the_same_seed_gives_the_same_bytes() -> None:
    first, second = (draw(np.random.default_rng(3), scenes(8)) for _ in range(2))
    assert first.shape == (8, SIDE, SIDE, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, second)


def test_things_lie_inside_the_frame_and_apart() -> None:
    some = scenes(300)
    layout = lay_out(np.random.default_rng(0), some, np.ones((300, len(QUALITIES)), np.float32))
    there = layout.shape >= 0
    reach = layout.radius[..., None]
    assert (layout.centre - reach)[there].min() >= 0
    assert (layout.centre + reach)[there].max() <= SIDE
    both = there.all(axis=1)
    apart = np.linalg.norm(layout.centre[both, 0] - layout.centre[both, 1], axis=1)
    assert (apart > layout.radius[both].sum(axis=1)).all()


@pytest.mark.parametrize("part", range(len(QUALITIES)))
def test_each_quality_changes_the_picture_more_the_worse_it_is(part: int) -> None:
    clean = draw(np.random.default_rng(1), scenes(32)).astype(float)
    change = []
    for value in (0.7, 0.0):
        quality = np.ones((32, len(QUALITIES)), np.float32)
        quality[:, part] = value
        change.append(np.abs(draw(np.random.default_rng(1), scenes(32), quality) - clean).mean())
    assert 0 < change[0] < change[1]


def test_web_pictures_are_graded_and_some_are_flawless() -> None:
    quality = draw_quality(np.random.default_rng(0), 4000)
    assert quality.min() >= 0
    assert quality.max() <= 1
    assert 0.17 < (quality.min(axis=1) > 0.94).mean() < 0.25
    assert quality.std(axis=0).min() > 0.15
