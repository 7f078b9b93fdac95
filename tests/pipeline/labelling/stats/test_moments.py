from __future__ import annotations

from fractions import Fraction
from math import isqrt

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tgo.pipeline.labelling.stats import moments
from tgo.pipeline.labelling.stats.moments import Moments

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False) | st.sampled_from(
    [0.0, -0.0, 1e-45, -1e-45, 1.1754942e-38, 3.4028235e38, -3.4028235e38]
)
SCORES = hnp.arrays(np.float32, st.integers(1, 50), elements=FINITE)


def moments_of(scores: np.ndarray) -> Moments:
    found = Moments()
    found.add(scores)
    return found


def exact(scores: np.ndarray) -> tuple[float, float]:
    numbers = [Fraction(float(score)) for score in scores]
    mean = sum(numbers, Fraction()) / len(numbers)
    variance = sum(((number - mean) * (number - mean) for number in numbers), Fraction()) / len(
        numbers
    )
    shift = 2 * max(0, 200 - variance.numerator.bit_length() + variance.denominator.bit_length())
    root = isqrt((variance.numerator << shift) // variance.denominator)
    above = root**2 * variance.denominator < variance.numerator << shift
    return float(mean), float(Fraction(2 * root + above, 2 << shift // 2))


@given(SCORES)
@example(np.array([0, 24, 3.60288e16, 3.60288e16], np.float32))  # 1e-31 above a tie
def test_both_are_the_exact_ones_rounded_once(scores: np.ndarray) -> None:
    found = moments_of(scores)
    assert (found.mean(), found.std()) == exact(scores)


@given(SCORES, st.integers(1, 5), st.randoms())
def test_order_and_parts_change_no_bit(scores: np.ndarray, parts: int, random: object) -> None:
    whole = moments_of(scores)
    merged = Moments()
    random.shuffle(scores)  # type: ignore[attr-defined]
    for part in np.array_split(scores, parts):
        merged.merge(moments_of(part))
    assert (merged.mean(), merged.std()) == (whole.mean(), whole.std())


def test_groups_are_kept_apart() -> None:
    scores = np.random.default_rng(0).normal(5, 2, 1000).astype(np.float32)
    group = np.arange(1000) % 3
    found = Moments(4)
    found.add(scores, group)
    for number in range(3):
        own = moments_of(scores[group == number])
        assert (found.mean(number), found.std(number)) == (own.mean(), own.std())
    assert found.count.tolist() == [334, 333, 333, 0]
    assert np.isnan(found.mean(3))


def test_large_numbers_of_rows_agree_with_numpy() -> None:
    scores = np.random.default_rng(1).normal(21, 1, 300_000).astype(np.float32)
    found = moments_of(scores)
    assert found.mean() == pytest.approx(scores.mean(dtype=np.float64), rel=1e-14)
    assert found.std() == pytest.approx(scores.std(dtype=np.float64), rel=1e-13)


@st.composite
def near_scores(draw: st.DrawFn) -> np.ndarray:
    """Many scores of a few powers of two, with some far smaller ones between them."""
    centre = draw(st.integers(-149, 127))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows = draw(st.integers(1, 400))
    fall = generator.integers(0, draw(st.sampled_from([1, 4, 14, 15, 16, 17, 40, 90])), rows)
    drawn = generator.uniform(-1, 1, rows) * np.exp2(centre - fall.astype(float))
    drawn[generator.random(rows) < 0.05] = 0
    return drawn.astype(np.float32)


@given(near_scores())
def test_no_range_of_scores_costs_a_bit(scores: np.ndarray) -> None:
    found = moments_of(scores)
    assert (found.mean(), found.std()) == exact(scores)


@given(near_scores(), st.integers(1, 30))
def test_where_blocks_end_changes_no_bit(scores: np.ndarray, size: int) -> None:
    whole = moments_of(scores)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moments, "_BLOCK", size)
        other = moments_of(scores)
    assert (other.mean(), other.std()) == (whole.mean(), whole.std())


@pytest.mark.parametrize("fall", [0, 14, 15, 16])
@pytest.mark.parametrize("exponent", [-126, -3, 4, 127])
def test_full_blocks_of_the_largest_terms_stay_exact(fall: int, exponent: int) -> None:
    """Every mantissa bit set, and half of the rows as small as a block can still add exactly."""
    high = np.float32(np.ldexp(2.0 - 2.0**-23, exponent))
    low = np.float32(np.ldexp(2.0 - 2.0**-23, max(exponent - fall, -126)))
    rows = moments._BLOCK
    scores = np.where(np.arange(rows) % 2, high, low).astype(np.float32)
    found = moments_of(scores)
    halves = Fraction(float(high)), Fraction(float(low))
    assert found.mean() == float(sum(halves) / 2)
    assert found.std() == float((halves[0] - halves[1]) / 2)


def test_billions_of_rows_do_not_overflow() -> None:
    """Sums over blocks cannot overflow, however many blocks there are."""
    found = moments_of(np.full(1000, 3.4028235e38, np.float32))
    for _ in range(40):  # doubled to 10^15 rows
        found.merge(found)
    assert found.count[0] == 1000 << 40
    assert (found.mean(), found.std()) == (float(np.float32(3.4028235e38)), 0.0)
