"""The labelling rule of TGO (arXiv:2605.04653) from scores to labels and weights, in one file.

With the scores s_1 ... s_n of all images, the default is

    t   = the median of all scores         `percentile_thresholds`, label.percentile = 50
    l_i = 1 if s_i >= t, else 0            `labels`
    w_i = 1 + c |s_i - t| / std(s)         `weights`, label.confidence = c

Scores come from a `ScoreReader` in batches and are read as often as needed, so their number is not
bounded by memory. `stats.quantiles` and `stats.moments` make t and std(s) exact, whatever the
order of the rows. Other thresholds are in `estimators` and `thresholds`, sums of several reward
models in `scalar`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from tgo.pipeline.config.label_settings import Label
from tgo.pipeline.labelling.scalar import Mask, Ranks, Scores
from tgo.pipeline.labelling.score_reader import ScoreBatch, ScoreReader
from tgo.pipeline.labelling.stats.moments import Moments
from tgo.pipeline.labelling.stats.quantiles import Selection

POSITIVE, NEGATIVE, EXCLUDED = 1, 0, -1


@dataclass(frozen=True)
class ScoreStatistics:
    """What one reading of all scores gives."""

    rows: int
    """Rows with and without a score."""
    missing: dict[str, int]
    """Per reward model, usable rows that lack its score."""
    filtered: int
    """Usable rows that `label.filter` leaves out."""
    moments: Moments
    """Mean and standard deviation of the rows that have a score."""
    first_pass: NDArray[np.int64]
    """The first histogram of a percentile search over all rows; it is the same for all of them."""


def score_statistics(reader: ScoreReader) -> ScoreStatistics:
    """Count rows, sum scores and begin the search for the threshold in one reading."""

    def look(batch: ScoreBatch) -> ScoreStatistics:
        finite, moments = batch.finite_scores, Moments()
        moments.add(finite)
        first_pass = Selection([50.0]).count(finite)
        return ScoreStatistics(
            len(batch.scores), batch.missing, batch.filtered, moments, first_pass
        )

    rows, filtered, moments = 0, 0, Moments()
    missing = dict.fromkeys(reader.scalar.rule.reward, 0)
    first_pass = Selection([50.0]).count(np.empty(0, np.float32))
    for found in reader.map(look):
        rows += found.rows
        filtered += found.filtered
        moments.merge(found.moments)
        first_pass += found.first_pass
        missing = {name: missing[name] + found.missing[name] for name in missing}
    return ScoreStatistics(rows, missing, filtered, moments, first_pass)


def percentile_thresholds(
    reader: ScoreReader,
    rule: Label,
    *,
    grouped: bool = False,
    first_pass: NDArray[np.int64] | None = None,
) -> tuple[Scores, NDArray[np.int64]]:
    """The percentiles of all scores, or of each group's.

    The percentile p is the smallest score with at least p % of the scores at or below it. Of
    groups it is taken on the side that balances small ones: with ties positive the upper of two
    candidates, so that half of 4 rows are positive, and not 3.

    Args:
        reader: gives the scores, and their groups if `grouped`.
        rule: has `percentile`, `ordinal` and `ties`.
        grouped: whether every group has a threshold of its own.
        first_pass: the first histogram of all rows, if it has been made already.

    Returns:
        Thresholds float32 [1 + ordinal, groups], NaN for an empty group, and sizes [groups].
    """
    wanted = [rule.percentile or 0.0, *(rule.ordinal or ())]
    groups = len(reader.names) if grouped else 1
    search = Selection(wanted, groups, upper=grouped and rule.ties == "positive")
    if first_pass is not None:
        search.advance(first_pass)
    while not search.done:
        counts = reader.map(
            lambda batch: search.count(batch.scores, batch.group if grouped else None)
        )
        search.advance(reduce(np.add, counts))
    return search.values(), search.sizes


def labels(scores: Scores, usable: Mask, threshold: Scores | float, ties: str) -> NDArray[np.int8]:
    """The label of every row.

    Args:
        scores: float32 [n].
        usable: [n]; a row that is not usable gets -1.
        threshold: one number, or one per row [n].
        ties: whether a score equal to the threshold is "positive" (>=) or "negative" (>).

    Returns:
        int8 [n]: 1, 0 or -1.
    """
    found = _above(scores, threshold, ties).astype(np.int8)
    found[~usable] = EXCLUDED
    return found


def targets(scores: Scores, usable: Mask, thresholds: Scores, ties: str) -> Scores:
    """Graded targets in 0 to 1: the share of the thresholds [K, n or 1] that a score passes.

    For an objective with a soft target l, `loss(l) = l loss(1) + (1 - l) loss(0)` is then the
    mean of the losses of K labels, one per threshold (all-threshold ordinal regression: Rennie
    and Srebro, 2005). float32 [n]; NaN where a row is not usable.
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
    errors: Scores | None = None,
) -> NDArray[np.float32]:
    """Confidence weights float32 [n]; 0 where a row is not usable.

    With d = |s - threshold|, the scores' standard deviation `std` and c = `rule.confidence`:

    - standardised: 1 + c d / std, so that c means the same for every reward model;
    - raw: 1 + c d, the paper's, in the score's unit;
    - capped: 1 + c min(d / std, cap), so that no outlier outweighs a batch;
    - rank: 1 + 2 c |F(s) - F(threshold)| with the scores' mid-rank shares F (`ranks`): at the
      median between 1 and 1 + c, whatever the distribution;
    - noise: Phi(d / (error std)), the probability that the label is right if a score is the true
      one plus a normal error of `rule.error` standard deviations, or of each row's own `errors`
      [n] in the score's unit; between 1/2 and 1;
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
        if errors is None:
            assert isinstance(rule.error, float)
            unsure: NDArray[np.float64] | float = rule.error
        else:
            smallest = np.finfo(np.float64).tiny  # an error of 0 leaves no doubt, and no 0 / 0
            unsure = np.maximum(errors / std, smallest) if std > 0 else 1.0
        return np.where(usable, _normal_cdf(distance / unsure), 0).astype(np.float32)
    assert rule.confidence is not None
    distance *= rule.confidence
    distance += 1
    distance[~usable] = 0
    with np.errstate(over="ignore"):  # an infinite weight is refused where the row is known
        return distance.astype(np.float32)


def _above(scores: Scores, threshold: Scores | float, ties: str) -> Mask:
    return scores >= threshold if ties == "positive" else scores > threshold


def _normal_cdf(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.special import ndtr

    found: NDArray[np.float64] = ndtr(distance)
    return found
