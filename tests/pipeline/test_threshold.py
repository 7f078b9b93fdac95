from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline import threshold
from pipeline.threshold import Coarse, Fine, percentiles, rank

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


@given(SCORES, SCORES)
def test_histograms_of_shards_add_up(one: np.ndarray, two: np.ndarray) -> None:
    apart, together = (Coarse(), Coarse()), Coarse()
    for part, scores in zip(apart, (one, two), strict=True):
        part.add(scores)
        together.add(scores)
    apart[0].merge(apart[1])
    np.testing.assert_array_equal(apart[0].counts, together.counts)
    bins = [bin_ for bin_, _ in together.locate([1, together.total])]
    fine, other, both = Fine(bins), Fine(bins), Fine(bins)
    fine.add(one)
    other.add(two)
    fine.merge(other)
    both.add(np.concatenate([one, two]))
    for bin_ in bins:
        np.testing.assert_array_equal(fine.counts[bin_], both.counts[bin_])


@given(SCORES)
def test_keys_sort_like_scores_and_come_back(scores: np.ndarray) -> None:
    keys = threshold.to_keys(scores)
    np.testing.assert_array_equal(threshold.from_keys(keys), scores)
    order = np.argsort(keys, kind="stable")
    assert (np.diff(scores[order][np.isfinite(scores[order])]) >= 0).all()


def test_both_zeros_are_one_score() -> None:
    zeros = np.array([0.0, -0.0], np.float32)
    keys = threshold.to_keys(zeros)
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
