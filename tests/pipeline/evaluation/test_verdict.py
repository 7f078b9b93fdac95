"""The outcome in words: no sentence claims more than its interval supports or omits a decline."""

from __future__ import annotations

from typing import Any

import pytest

from tgo.pipeline.evaluation import verdict

UP = {"low": 0.1, "difference": 0.2, "high": 0.3, "win_rate": 0.6, "win_low": 0.55, "win_high": 0.7}
DOWN = {
    "low": -0.3,
    "difference": -0.2,
    "high": -0.1,
    "win_rate": 0.4,
    "win_low": 0.3,
    "win_high": 0.45,
}
FLAT = {
    "low": -0.1,
    "difference": 0.0,
    "high": 0.1,
    "win_rate": 0.5,
    "win_low": 0.4,
    "win_high": 0.6,
}
LOSES = UP | {"win_rate": 0.41, "win_low": 0.35, "win_high": 0.47}


def told(*rows: dict[str, float], **more: list[dict[str, float]]) -> str:
    metrics: dict[str, Any] = {
        name: {"pickscore": row} | {score: of_set[place] for score, of_set in more.items()}
        for place, (name, row) in enumerate(zip(("seen", "unseen", "hard"), rows, strict=False))
    }
    return verdict.sentence(metrics | {"generator": {}}, "pickscore")


def test_a_fall_of_the_win_rate_is_a_fall_though_the_mean_rose() -> None:
    assert verdict.way(LOSES) == "down"
    assert verdict.way(UP) == "up"
    assert verdict.way(UP | {"low": -0.01}) == "flat"
    assert verdict.way({"low": 0.1, "difference": 0.2, "high": 0.3}) == "up"


@pytest.mark.parametrize(
    ("rows", "title"),
    [
        ([UP] * 3, "PickScore rose on 3 of 3 sets"),
        ([DOWN] * 3, "PickScore fell on 3 of 3 sets"),
        ([FLAT] * 3, "PickScore shows no clear change on any of 3 sets"),
        ([UP], "PickScore rose on seen"),
        ([UP, DOWN, FLAT], "PickScore rose on 1 of 3 sets and fell on unseen"),
        ([FLAT, LOSES], "PickScore fell on unseen"),
    ],
)
def test_the_main_score(rows: list[dict[str, float]], title: str) -> None:
    assert told(*rows) == title


def test_truth_and_what_speaks_against_it() -> None:
    found = told(UP, UP, UP, truth=[UP, FLAT, FLAT], clip=[FLAT, UP, LOSES], hpsv2=[DOWN] * 3)
    assert found == (
        "PickScore rose on 3 of 3 sets; the truth rose clearly on 1 of 3 sets; "
        "HPSv2 loses 60\u00a0% of pairs on seen"
    )


def test_pairs_that_may_be_lost_by_chance_are_no_loss() -> None:
    fell = {"low": -0.4, "high": -0.1, "win_rate": 0.4, "win_low": 0.1, "win_high": 0.7}
    assert told(UP, UP, UP, clip=[FLAT, FLAT, fell | {"effect": -0.2}]).endswith(
        "the mean of CLIP fell on hard"
    )


def test_other_reward_models_stand_in_for_the_truth() -> None:
    found = told(
        UP, UP, clip=[UP, FLAT], aesthetic=[DOWN | {"win_rate": 0.5, "win_high": 0.6}, FLAT]
    )
    assert "of 4 comparisons by the other reward models 1 rose and 1 fell" in found
    assert "the mean of Aesthetic fell on seen" in found


def test_nothing_to_compare_by() -> None:
    assert "look at the pictures" in verdict.sentence({"seen": {}, "generator": {}}, None)


def test_the_likings_of_the_feedbacks_raters_are_told_and_no_others() -> None:
    rows = {"truth": [UP, FLAT, FLAT], "utility_pickscore": [UP] * 3, "utility_clip": [DOWN] * 3}
    assert told(UP, UP, UP, **rows) == (
        "PickScore rose on 3 of 3 sets; the truth rose clearly on 1 of 3 sets; "
        "what PickScore's raters like rose clearly on 3 of 3 sets"
    )
