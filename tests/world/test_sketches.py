"""Deformed pictures: strong faults cost merit, none costs nothing, and each fault is visible."""

from __future__ import annotations

import numpy as np
import pytest

from tgo.data.world.render import QUALITIES
from tgo.data.world.scene import Scene, Thing, caption, draw_scene, parse
from tgo.data.world.sketches import Sketch, drawn_scene, paint, sketch, wear

CALM = np.zeros(1, np.float32)


def one(shape: str = "square", colour: str = "red") -> Sketch:
    """A sketch of one flawless thing."""
    scene = Scene((Thing(shape, colour, "large", "centre"),), "white")
    for seed in range(100):
        drawn = sketch(
            np.random.default_rng(seed), [scene], np.ones((1, len(QUALITIES)), np.float32)
        )
        faults = drawn.morph.any() or drawn.leak.any() or drawn.bite.any() or drawn.warp.any()
        if not faults and (drawn.presence == 1).all() and (drawn.layout.shape[0] >= 0).sum() == 1:
            drawn.other_shape[:] = 0  # circle
            drawn.other_colour[:] = 4  # blue
            return drawn
    raise AssertionError("no flawless sketch in a hundred")


def test_without_faults_it_shows_the_scene() -> None:
    rng = np.random.default_rng(0)
    scenes = [draw_scene(rng) for _ in range(200)]
    drawn = sketch(rng, scenes, np.ones((200, len(QUALITIES)), np.float32))
    for row, scene in enumerate(scenes):
        shown = drawn_scene(drawn.layout, row)
        assert shown.background == scene.background
        assert len(shown.things) >= len(scene.things)
        if scene.relation:
            assert shown.relation == scene.relation
        for promised, thing in zip(scene.things, shown.things, strict=False):
            assert (thing.shape, thing.colour) == (promised.shape, promised.colour)
            assert promised.size in (None, thing.size)
            assert promised.place in (None, thing.place)


def test_a_flawless_thing_is_not_worn() -> None:
    assert wear(one(), CALM) == [[(1.0, 1.0, 1.0)]]


@pytest.mark.parametrize(
    ("fault", "field"),
    [("morph", "shape"), ("bite", "shape"), ("leak", "colour"), ("warp", "shape")],
)
def test_a_fault_changes_the_picture_and_wears_the_thing(fault: str, field: str) -> None:
    clean, faulty = one(), one()
    strength = 2.0 if fault == "warp" else 0.3
    getattr(faulty, fault)[...] = strength
    pictures = [paint(np.random.default_rng(1), drawn).astype(int) for drawn in (clean, faulty)]
    changed = (np.abs(pictures[0] - pictures[1]).max(axis=3) > 20).sum()
    assert changed > 15
    assert 0 < getattr(wear(faulty, CALM)[0][0], field) < 0.8


def test_a_bite_takes_its_share_of_the_area() -> None:
    clean, bitten = one(), one()
    bitten.bite[...] = 0.4
    area = [
        (paint(np.random.default_rng(1), drawn)[0, ..., 1] < 140).sum() for drawn in (clean, bitten)
    ]
    assert area[1] / area[0] == pytest.approx(0.6, abs=0.05)


def test_a_morph_into_itself_is_no_fault() -> None:
    drawn = one("circle", "blue")
    drawn.morph[...] = drawn.leak[...] = 0.4
    assert wear(drawn, CALM) == [[(1.0, 1.0, 1.0)]]


def test_captions_of_drawn_scenes_can_be_said() -> None:
    shown = drawn_scene(one().layout, 0)
    assert parse(caption(shown)).things == shown.things
