"""Bootstrap intervals and win rates."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tgo.pipeline.evaluation.stats import (
    Interval,
    bootstrap_mean,
    mean_by_prompt,
    paired_difference,
    win_rate,
)

scores = st.floats(-100, 100, allow_nan=False, width=32)
pairs = st.integers(1, 30).flatmap(
    lambda n: st.tuples(
        hnp.arrays(np.float64, n, elements=scores),
        hnp.arrays(np.float64, n, elements=scores),
        st.lists(st.sampled_from("abcdefgh"), min_size=n, max_size=n),
    )
)
few = settings(max_examples=30, deadline=None)


def test_same_seed_same_interval_and_another_seed_another() -> None:
    values = np.random.default_rng(0).normal(size=50)
    assert bootstrap_mean(values, seed=1) == bootstrap_mean(values, seed=1)
    assert bootstrap_mean(values, seed=1) != bootstrap_mean(values, seed=2)


def test_interval_agrees_with_the_normal_approximation() -> None:
    values = np.random.default_rng(1).normal(2.0, 3.0, size=2_000)
    interval = bootstrap_mean(values)
    half = 1.96 * values.std() / np.sqrt(values.size)
    assert interval.value == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.05 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.05 * half)


def test_batches_do_not_change_the_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(2).normal(size=40)
    whole = bootstrap_mean(values, resamples=999)
    monkeypatch.setattr("tgo.pipeline.evaluation.stats._BATCH_VALUES", 40 * 7)
    assert bootstrap_mean(values, resamples=999) == whole


def test_interval_covers_the_truth_as_often_as_it_promises() -> None:
    """300 experiments of 60 skewed values each: about 95 in 100 intervals cover the mean.

    The percentile bootstrap is known to fall a little short on skewed data.
    """
    rng = np.random.default_rng(3)
    covered = 0
    for trial in range(300):
        interval = bootstrap_mean(rng.exponential(1.0, size=60), seed=trial, resamples=500)
        covered += interval.low <= 1.0 <= interval.high
    assert 0.90 <= covered / 300 <= 0.98


def test_resampling_prompts_is_wider_than_resampling_images() -> None:
    """Images of one prompt are alike; the interval must not pretend they are independent."""
    prompt_effect = np.repeat(np.random.default_rng(4).normal(size=40), 8)
    ids = [f"p{i // 8}" for i in range(320)]
    clustered = paired_difference(np.zeros(320), prompt_effect, ids)
    naive = bootstrap_mean(prompt_effect)
    assert clustered.high - clustered.low > 2 * (naive.high - naive.low)


def test_mean_by_prompt_keeps_order_and_weighs_prompts_equally() -> None:
    means = mean_by_prompt([1.0, 10.0, 3.0, 2.0], ["b", "a", "b", "b"])
    np.testing.assert_allclose(means, [2.0, 10.0])


def test_ties_count_half() -> None:
    assert win_rate([1, 1, 1, 1], [2, 1, 0, 1], list("abcd")).value == 0.5
    assert win_rate([1, 1], [1, 2], ["a", "b"]).value == 0.75


@pytest.mark.parametrize("values", [[], [[1.0]], [1.0, float("nan")], [float("inf")]])
def test_unusable_values_are_refused(values: list) -> None:
    with pytest.raises(ValueError, match="finite"):
        bootstrap_mean(values)


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="2 values but 3 prompt ids"):
        mean_by_prompt([1.0, 2.0], ["a", "b", "c"])


def test_excludes_zero() -> None:
    assert Interval(1, 0.1, 2).excludes_zero
    assert Interval(-1, -2, -0.1).excludes_zero
    assert not Interval(0.1, -1, 1).excludes_zero
    assert not Interval(0, 0, 0).excludes_zero


@few
@given(pairs)
def test_interval_contains_its_estimate_and_stays_in_the_range(data: tuple) -> None:
    base, tuned, ids = data
    gains = mean_by_prompt(tuned - base, ids)
    interval = paired_difference(base, tuned, ids)
    slack = 1e-9 * (1 + np.abs(gains).max())
    assert gains.min() - slack <= interval.low <= interval.high <= gains.max() + slack
    assert gains.min() - slack <= interval.value <= gains.max() + slack


@few
@given(pairs)
def test_swapping_the_models_mirrors_the_comparison(data: tuple) -> None:
    base, tuned, ids = data
    there, back = paired_difference(base, tuned, ids), paired_difference(tuned, base, ids)
    np.testing.assert_allclose(there.value, -back.value, atol=1e-9)
    np.testing.assert_allclose([there.low, there.high], [-back.high, -back.low], atol=1e-6)
    wins, losses = win_rate(base, tuned, ids), win_rate(tuned, base, ids)
    np.testing.assert_allclose(wins.value + losses.value, 1)
    np.testing.assert_allclose(wins.low + losses.high, 1, atol=1e-6)


@few
@given(pairs, st.floats(0.01, 100), st.floats(-10, 10))
def test_scaling_scores_scales_the_difference(data: tuple, scale: float, shift: float) -> None:
    base, tuned, ids = data
    plain = np.array(paired_difference(base, tuned, ids))
    changed = np.array(paired_difference(scale * base + shift, scale * tuned + shift, ids))
    np.testing.assert_allclose(changed, scale * plain, atol=1e-6 * (1 + scale))


@few
@given(pairs)
def test_a_model_against_itself_is_a_draw(data: tuple) -> None:
    base, _, ids = data
    assert paired_difference(base, base, ids) == (0, 0, 0)
    assert win_rate(base, base, ids) == (0.5, 0.5, 0.5)
