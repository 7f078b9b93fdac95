"""Captions and scenes: parsing a caption gives back the scene it describes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgo.data.world.scene import UNSEEN, caption, confuse, draw_scene, parse

seeds = st.integers(0, 2**32)


@given(seeds)
def test_parse_inverts_caption(seed: int) -> None:
    scene = draw_scene(np.random.default_rng(seed))
    assert parse(caption(scene)) == scene


@given(seeds)
def test_held_out_pairs_are_drawn_only_when_asked_for(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pairs = {(thing.shape, thing.colour) for thing in draw_scene(rng).things}
    assert not pairs & UNSEEN
    first = draw_scene(rng, unseen=True).things[0]
    assert (first.shape, first.colour) in UNSEEN


@given(seeds)
def test_a_confused_scene_is_still_a_scene_of_the_world(seed: int) -> None:
    rng = np.random.default_rng(seed)
    wrong = confuse(rng, draw_scene(rng))
    assert parse(caption(wrong)) == wrong
    assert not {(thing.shape, thing.colour) for thing in wrong.things} & UNSEEN


def test_hard_scenes_have_a_relation_and_sizes() -> None:
    rng = np.random.default_rng(0)
    scenes = [draw_scene(rng, relation=True, sized=True) for _ in range(50)]
    assert {scene.domain for scene in scenes} == {"sized relation"}
    assert all(a.colour != b.colour for a, b in (scene.things for scene in scenes))


@pytest.mark.parametrize("text", ["", "a dog", "a red circle", "a red circle on a red background"])
def test_other_sentences_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a caption"):
        parse(text)
