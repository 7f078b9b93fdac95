"""Raters judge a picture by its match with the prompt first, then by their own tastes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgo.data.world.raters import MERITS, POPULATIONS, Wear, kept
from tgo.data.world.scene import Scene, Thing, draw_scene

RED = Thing("circle", "red", "small", "top left")
BLUE = Thing("square", "blue", "large", "bottom right")
BOTH = Scene((RED, BLUE), "white", "left of")


def said(scene: Scene) -> Scene:
    """The scene without what captions of two things leave open."""
    return Scene(
        tuple(Thing(t.shape, t.colour) for t in scene.things), scene.background, scene.relation
    )


def test_the_promised_scene_keeps_everything() -> None:
    assert kept(said(BOTH), BOTH) == (1.0, 1.0)
    assert kept(BOTH, BOTH) == (1.0, 1.0)


def test_things_may_be_drawn_in_the_other_order() -> None:
    assert kept(said(BOTH), Scene((BLUE, RED), "white", "right of")) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("drawn", "lost"),
    [
        (Scene((RED, BLUE), "black", "left of"), 1),
        (Scene((RED, BLUE), "white", "above"), 1),
        (Scene((BLUE, RED), "white", "left of"), 1),
        (Scene((Thing("cross", "red", "small", "top left"), BLUE), "white", "left of"), 1),
        (Scene((RED,), "white"), 4),  # number, colour, shape, relation
        (Scene((RED, BLUE, Thing("cross", "green", "small")), "white", "left of"), 1),
    ],
)
def test_each_broken_promise_counts_once(drawn: Scene, lost: int) -> None:
    share, whole = kept(said(BOTH), drawn)
    assert share == pytest.approx(1 - lost / 7)
    assert whole == 0


def test_size_and_place_count_only_where_they_are_promised() -> None:
    drawn = Scene((Thing("circle", "red", "large", "centre"),), "white")
    assert kept(Scene((Thing("circle", "red"),), "white"), drawn).whole == 1
    assert kept(Scene((Thing("circle", "red", "small"),), "white"), drawn).share == 4 / 5
    assert kept(Scene((Thing("circle", "red", "small", "centre"),), "white"), drawn).share == 5 / 6


@given(st.floats(0, 1), st.floats(0, 1))
def test_more_wear_is_never_better(less: float, more: float) -> None:
    less, more = sorted((less, more))
    for field in Wear._fields:
        better = kept(said(BOTH), BOTH, [Wear(**{field: more}), Wear()])
        worse = kept(said(BOTH), BOTH, [Wear(**{field: less}), Wear()])
        assert better.share >= worse.share
        assert better.whole >= worse.whole


def test_a_surplus_thing_that_has_nearly_faded_hardly_counts() -> None:
    drawn = Scene((RED, BLUE, Thing("cross", "green", "small")), "white", "left of")
    share = kept(said(BOTH), drawn, [Wear(), Wear(), Wear(presence=0.1)]).share
    assert share == pytest.approx(1 - 0.1 / 7)


@given(st.integers(0, 2**32 - 1))
def test_shares_stay_in_bounds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    share, whole = kept(draw_scene(rng), draw_scene(rng))
    assert 0 <= whole <= share <= 1


@pytest.mark.parametrize("name", sorted(POPULATIONS))
def test_better_in_everything_is_liked_more(name: str) -> None:
    merits = np.random.default_rng(0).uniform(0, 0.8, size=(200, len(MERITS))).astype(np.float32)
    people = POPULATIONS[name]
    assert (people.utility(merits + np.float32(0.1)) > people.utility(merits)).all()


def test_populations_differ() -> None:
    merits = np.random.default_rng(0).random((2000, len(MERITS))).astype(np.float32)
    liking = np.corrcoef([people.utility(merits) for people in POPULATIONS.values()])
    assert (liking[np.triu_indices(len(POPULATIONS), 1)] < 0.95).all()


def test_a_better_picture_wins_more_often_but_not_always() -> None:
    merits = np.full((4000, 2, len(MERITS)), 0.7, np.float32)
    merits[:, 0, 0] = 0.9
    felt = POPULATIONS["pickscore"].judge(np.random.default_rng(0), merits)
    wins = (felt[:, 0] > felt[:, 1]).mean()
    gain = POPULATIONS["pickscore"].utility(merits[0])
    assert wins == pytest.approx(1 / (1 + np.exp(gain[1] - gain[0])), abs=0.04)
    assert 0.6 < wins < 0.95


def test_ratings_lie_between_1_and_10_and_follow_the_merits() -> None:
    rng = np.random.default_rng(0)
    worst, best = (np.full((500, len(MERITS)), value, np.float32) for value in (0, 1))
    people = POPULATIONS["aesthetic"]
    low, high = people.rate(rng, worst), people.rate(rng, best)
    assert low.min() >= 1
    assert high.max() <= 10
    assert low.mean() < 2 < 9 < high.mean()
