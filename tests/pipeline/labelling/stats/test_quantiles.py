from __future__ import annotations

import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tgo.pipeline.labelling.stats import quantiles
from tgo.pipeline.labelling.stats.quantiles import Selection, percentiles, rank, ranks

FLOATS = st.floats(width=32, allow_nan=False) | st.sampled_from(
    [0.0, -0.0, 1e-45, -1e-45, 1.0, 1.0000001, float("inf"), float("-inf")]
)
SCORES = hnp.arrays(np.float32, st.integers(1, 60), elements=FLOATS)
PERCENTILES = st.sampled_from([0, 0.1, 10, 25, 33.3, 50, 70.1, 90, 99.9, 100]).map(float)


def sorted_statistic(scores: np.ndarray, percentile: float) -> float:
    """The definition itself: smallest score with at least p % of the scores <= it."""
    for score in np.sort(scores):
        if Fraction(int((scores <= score).sum()), len(scores)) >= Fraction(repr(percentile)) / 100:
            return float(score)
    raise AssertionError


@given(SCORES, st.lists(PERCENTILES, min_size=1, max_size=4))
def test_is_the_order_statistic_of_its_definition(scores: np.ndarray, wanted: list[float]) -> None:
    found, count, missing = percentiles(lambda: [scores], wanted)
    assert found == [sorted_statistic(scores, percentile) for percentile in wanted]
    assert (count, missing) == (len(scores), 0)


@given(hnp.arrays(np.float32, st.integers(1, 200), elements=st.floats(-5, 5, width=32)))
def test_agrees_with_numpy(scores: np.ndarray) -> None:
    found, _, _ = percentiles(lambda: [scores], [25, 50, 75])
    assert found == np.quantile(scores, [0.25, 0.5, 0.75], method="inverted_cdf").tolist()


@given(SCORES, PERCENTILES)
def test_the_share_of_positives_is_as_promised_up_to_ties(
    scores: np.ndarray, percentile: float
) -> None:
    (found,), count, _ = percentiles(lambda: [scores], [percentile])
    promised = 1 - Fraction(repr(percentile)) / 100
    assert Fraction(int((scores > found).sum()), count) <= promised
    assert promised <= Fraction(int((scores >= found).sum()), count)


@given(SCORES, st.integers(1, 5), st.randoms())
def test_shards_their_number_and_order_change_nothing(
    scores: np.ndarray, parts: int, random: object
) -> None:
    chunks = np.array_split(scores, parts)
    random.shuffle(chunks)  # type: ignore[attr-defined]
    assert percentiles(lambda: chunks, [10, 50]) == percentiles(lambda: [scores], [10, 50])


def select(selection: Selection, parts: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    while not selection.done:
        counts = [selection.count(scores, group) for scores, group in parts]
        selection.advance(np.sum(counts, axis=0))
    return selection.values()


@given(SCORES, st.integers(1, 4), st.randoms(), st.booleans())
def test_groups_are_selected_apart_and_parts_add_up(
    scores: np.ndarray, groups: int, random: random.Random, upper: bool
) -> None:
    group = np.array([random.randrange(groups) for _ in scores], np.int64)
    wanted = [10.0, 50.0, 100.0]
    cut = random.randrange(len(scores) + 1)
    parts = [(scores[cut:], group[cut:]), (scores[:cut], group[:cut])]
    found = select(Selection(wanted, groups, upper=upper), parts)
    for number in range(groups):
        own = np.sort(scores[group == number])
        for slot, percentile in enumerate(wanted):
            if not len(own):
                assert np.isnan(found[slot, number])
                continue
            at = ranks(np.array([len(own)]), percentile, upper=upper)[0] - 1
            assert found[slot, number] == own[at]


@pytest.mark.parametrize("groups", [300, 70_000])
def test_many_groups_take_shorter_digits_and_the_same_answer(
    groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantiles, "STATE_BYTES", 1 << 23)
    generator = np.random.default_rng(0)
    scores = generator.normal(size=4 * groups).astype(np.float32)
    group = np.repeat(np.arange(groups), 4)
    selection = Selection([50.0], groups)
    assert selection.bits < 16
    found = select(selection, [(scores, group)])[0]
    np.testing.assert_array_equal(found, np.sort(scores.reshape(-1, 4), axis=1)[:, 1])


@given(st.integers(1, 40), PERCENTILES)
def test_the_upper_rank_balances_with_positive_ties(count: int, percentile: float) -> None:
    (lower,) = ranks(np.array([count]), percentile, upper=False)
    (upper,) = ranks(np.array([count]), percentile, upper=True)
    assert lower == rank(count, percentile)
    wanted = count * (1 - Fraction(repr(percentile)) / 100)
    assert abs(count - upper + 1 - wanted) <= 1
    assert abs(count - lower - wanted) <= 1


@given(SCORES)
def test_keys_sort_like_scores_and_come_back(scores: np.ndarray) -> None:
    keys = quantiles.to_keys(scores)
    np.testing.assert_array_equal(quantiles.from_keys(keys), scores)
    order = np.argsort(keys, kind="stable")
    assert (np.diff(scores[order][np.isfinite(scores[order])]) >= 0).all()


def test_both_zeros_are_one_score() -> None:
    zeros = np.array([0.0, -0.0], np.float32)
    keys = quantiles.to_keys(zeros)
    assert keys[0] == keys[1]


def test_nan_are_left_out_and_counted() -> None:
    scores = np.array([np.nan, 3, 1, np.nan, 2], np.float32)
    assert percentiles(lambda: [scores], [50]) == ([2.0], 3, 2)


def test_no_scores_are_refused() -> None:
    with pytest.raises(ValueError, match="no scores"):
        percentiles(lambda: [np.array([np.nan], np.float32)], [50])


@pytest.mark.parametrize(
    ("count", "percentile", "expected"),
    [(4, 50, 2), (5, 50, 3), (1, 0, 1), (1, 100, 1), (10, 70.0, 7), (1000, 70.1, 701), (3, 0, 1)],
)
def test_ranks_are_exact(count: int, percentile: float, expected: int) -> None:
    assert rank(count, percentile) == expected


def test_a_million_scores_match_the_sort() -> None:
    scores = np.random.default_rng(0).normal(21, 1, 1_000_000).astype(np.float32)
    found, _, _ = percentiles(lambda: np.array_split(scores, 7), [1, 50, 99])
    ordered = np.sort(scores)
    assert found == [float(ordered[index - 1]) for index in (10_000, 500_000, 990_000)]
