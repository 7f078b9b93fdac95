"""Labels, graded targets and confidence weights: score and threshold in, three numbers out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from tgo.pipeline.config.label_settings import Label
from tgo.pipeline.labelling.scalar import Mask, Ranks, Scores

POSITIVE, NEGATIVE, EXCLUDED = 1, 0, -1


def labels(scores: Scores, usable: Mask, threshold: Scores | float, ties: str) -> NDArray[np.int8]:
    """1 where score >= threshold (ties "positive") or > (ties "negative"), else 0; int8 [n].

    Rows that are not usable get -1. The threshold is one number or one per row.
    """
    found = _above(scores, threshold, ties).astype(np.int8)
    found[~usable] = EXCLUDED
    return found


def targets(scores: Scores, usable: Mask, thresholds: Scores, ties: str) -> Scores:
    """The share of the thresholds [K, n or 1] that a score passes: graded targets in 0 to 1.

    For an objective with a soft target l, `loss(l) = l loss(1) + (1 - l) loss(0)` is then the
    mean of the losses of K labels, one per threshold (all-threshold ordinal regression: Rennie
    and Srebro, 2005). NaN where a row is not usable.
    """
    passed = np.mean([_above(scores, row, ties) for row in thresholds], axis=0)
    return np.where(usable, passed, np.nan).astype(np.float32)


def weights(
    scores: Scores,
    usable: Mask,
    threshold: Scores | float,
    rule: Label,
    std: float,
    ranks: Ranks | None = None,
) -> NDArray[np.float32]:
    """Confidence weights float32 [n]; 0 where a row is not usable.

    With d = |s - threshold|, the scores' standard deviation `std` and c = `rule.confidence`:

    - raw: 1 + c d, the paper's, in the score's unit;
    - standardised: 1 + c d / std, so that c means the same for every reward model;
    - capped: 1 + c min(d / std, cap), so that no outlier outweighs a batch;
    - rank: 1 + 2 c |F(s) - F(threshold)| with the scores' mid-rank shares F (`ranks`): at the
      median between 1 and 1 + c, whatever the distribution;
    - noise: Phi(d / (error std)), the probability that the label is right if a score is the true
      one plus a normal error of `rule.error` standard deviations; between 1/2 and 1;
    - none: 1.

    Scores that are all equal have no spread and all lie at the threshold: distance 0.
    """
    if rule.weights == "none":
        return usable.astype(np.float32)
    if rule.weights == "rank":
        assert ranks is not None
        cut = ranks.share(np.atleast_1d(np.asarray(threshold, np.float32)))
        distance = 2 * np.abs(ranks.share(scores) - cut)
    else:
        distance = np.subtract(scores, threshold, dtype=np.float64)
        np.abs(distance, out=distance)
    if rule.weights in ("standardised", "capped", "noise"):
        if std > 0:
            distance /= std
        else:
            distance[:] = 0
    if rule.weights == "capped":
        assert rule.cap is not None
        distance = np.minimum(distance, rule.cap)
    if rule.weights == "noise":
        assert rule.error is not None
        return np.where(usable, _probability(distance / rule.error), 0).astype(np.float32)
    assert rule.confidence is not None
    distance *= rule.confidence
    distance += 1
    distance[~usable] = 0
    with np.errstate(over="ignore"):  # an infinite weight is refused where the row is known
        return distance.astype(np.float32)


def _above(scores: Scores, threshold: Scores | float, ties: str) -> Mask:
    return scores >= threshold if ties == "positive" else scores > threshold


def _probability(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """The standard normal distribution function."""
    from scipy.special import ndtr

    found: NDArray[np.float64] = ndtr(distance)
    return found
