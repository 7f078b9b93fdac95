"""Paired comparisons of two models: means over prompts with bootstrap intervals.

The prompt is the unit of everything here. Images of one prompt share its difficulty, so they are
averaged first and prompts are drawn with replacement, never images: treating the images as
independent would make every interval too narrow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 10_000
CONFIDENCE = 0.95
_BATCH_VALUES = 2_000_000  # values drawn at a time: bounds memory for thousands of prompts

Floats = NDArray[np.float64]


class Interval(NamedTuple):
    """An estimate with the lower and upper end of its interval, in the unit of the values."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


def bootstrap_mean(
    values: ArrayLike,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Mean of ``values`` with its percentile-bootstrap interval over the P entries.

    Deterministic in ``seed``. One value, or values that are all equal, give an interval of zero
    width. Efron and Tibshirani, *An Introduction to the Bootstrap*, section 13.3.

    Args:
        values: ``[P]``, one number a prompt.
        seed: of the resampling.
        resamples: how often the values are drawn anew.
        confidence: of the interval, between 0 and 1.

    Returns:
        The mean, and the interval's two ends.

    Raises:
        ValueError: ``values`` is empty, not one-dimensional, or not finite.
    """
    from scipy.stats import bootstrap

    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or sample.size == 0 or not np.isfinite(sample).all():
        raise ValueError("a bootstrap needs a non-empty vector of finite values")
    mean = float(sample.mean())
    if np.ptp(sample) == 0:  # scipy refuses a single value; equal values need no resampling
        return Interval(float(sample[0]), float(sample[0]), float(sample[0]))
    result = bootstrap(
        (sample,),
        np.mean,
        n_resamples=resamples,
        batch=max(1, _BATCH_VALUES // sample.size),
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    interval = result.confidence_interval
    return Interval(mean, float(interval.low), float(interval.high))


def mean_by_prompt(values: ArrayLike, prompt_ids: Sequence[str]) -> Floats:
    """Average ``values`` within each prompt.

    Args:
        values: ``[N]``, one number an image.
        prompt_ids: the prompt of each of the N images.

    Returns:
        float64 ``[P]``, the prompts in order of first appearance.

    Raises:
        ValueError: the two have different lengths.
    """
    numbers = np.asarray(values, dtype=np.float64)
    order = {prompt_id: index for index, prompt_id in enumerate(dict.fromkeys(prompt_ids))}
    groups = np.array([order[prompt_id] for prompt_id in prompt_ids], dtype=np.intp)
    if numbers.shape != groups.shape:
        raise ValueError(f"{numbers.size} values but {groups.size} prompt ids")
    return np.bincount(groups, weights=numbers) / np.bincount(groups)


def paired_difference(
    base: ArrayLike, tuned: ArrayLike, prompt_ids: Sequence[str], *, seed: int = 0
) -> Interval:
    """Mean over prompts of ``tuned - base``; entry i of both is the same prompt and seed ``[N]``.

    Pairing removes what the two models share: how hard a prompt is and how lucky a seed.
    """
    gain = np.asarray(tuned, dtype=np.float64) - np.asarray(base, dtype=np.float64)
    return bootstrap_mean(mean_by_prompt(gain, prompt_ids), seed=seed)


def win_rate(
    base: ArrayLike, tuned: ArrayLike, prompt_ids: Sequence[str], *, seed: int = 0
) -> Interval:
    """Share of same-seed pairs ``[N]`` in which the tuned image scores higher; a tie is half a win.

    Wins are averaged within prompts before prompts are resampled, so 0.5 means no preference
    whatever the number of images per prompt.
    """
    gain = np.asarray(tuned, dtype=np.float64) - np.asarray(base, dtype=np.float64)
    return bootstrap_mean(mean_by_prompt((np.sign(gain) + 1) / 2, prompt_ids), seed=seed)
