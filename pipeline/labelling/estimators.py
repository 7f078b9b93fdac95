"""Thresholds of groups of scores, by the estimator of the settings.

`streamed` reads any number of rows in passes; `gathered` works on rows in memory, for groups
that are many and small (prompts). Thresholds are float32 numbers, so that the column `threshold`
reproduces every label.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tgo.pipeline.config.label_settings import Label
from tgo.pipeline.labelling.rule import percentile_thresholds
from tgo.pipeline.labelling.score_reader import ScoreBatch, ScoreReader
from tgo.pipeline.labelling.stats import mixtures
from tgo.pipeline.labelling.stats.moments import Moments
from tgo.pipeline.labelling.stats.quantiles import from_keys, ranks, to_keys

Scores = NDArray[np.float32]
_FIXED_POINT = 2.0**42  # steps of the oracle's terms: their sum does not depend on its order


class Estimate(NamedTuple):
    """Thresholds by group; row 0 is the threshold, the others those of `label.ordinal`."""

    values: Scores
    """float32 [1 + ordinal, groups]; NaN for a group without scores."""
    sizes: NDArray[np.int64]
    """Scores in each group, [groups]."""


def streamed(
    reader: ScoreReader, rule: Label, *, grouped: bool, first_pass: NDArray[np.int64] | None = None
) -> Estimate:
    """The thresholds of all rows that a reader gives, or of each of its groups.

    `first_pass` is the first histogram of all rows where that has been made already.
    """
    groups = len(reader.names) if grouped else 1
    if rule.estimator == "percentile":
        return Estimate(
            *percentile_thresholds(reader, rule, grouped=grouped, first_pass=first_pass)
        )
    if rule.estimator == "mean":
        return _means(reader, groups, grouped)
    if rule.estimator == "fixed":
        assert rule.value is not None
        sizes = np.array([sum(reader.map(lambda batch: len(batch.finite_scores)))])
        return Estimate(np.full((1, 1), rule.value, np.float32), sizes)
    return _shapes(reader, rule.estimator, groups, grouped)


def gathered(scores: Scores, group: NDArray[np.int64], groups: int, rule: Label) -> Estimate:
    """Thresholds of groups [n] of scores [n] by sorting; percentile, mean or oracle."""
    ordered, sizes = _sorted_by_group(scores, group, groups)
    first = np.cumsum(sizes) - sizes
    filled = np.flatnonzero(sizes)
    values = np.full((1 + len(rule.ordinal or ()), groups), np.nan, np.float32)
    if not len(filled):
        return Estimate(values, sizes)
    if rule.estimator == "percentile":
        for slot, percentile in enumerate([rule.percentile or 0.0, *(rule.ordinal or ())]):
            rank = ranks(sizes, percentile, upper=rule.ties == "positive")
            values[slot, filled] = ordered[(first + rank - 1)[filled]]
        return Estimate(values, sizes)
    doubles = ordered.astype(np.float64)
    if rule.estimator == "oracle":
        assert rule.oracle_beta is not None
        last = ordered[(first + sizes - 1)[filled]].astype(np.float64)
        values[0, filled] = _oracle(doubles, last, first[filled], sizes[filled], rule.oracle_beta)
    else:
        values[0, filled] = np.add.reduceat(doubles, first[filled]) / sizes[filled]
    return Estimate(values, sizes)


def oracle_of_all(reader: ScoreReader, beta: float) -> Estimate:
    """The oracle's value with all rows in one group: what a prompt's is shrunk towards."""
    highest, size = -np.inf, 0
    for top, count in reader.map(_highest):
        highest, size = max(highest, top), size + count

    def terms(batch: ScoreBatch) -> int:
        scores = batch.finite_scores.astype(np.float64)
        return int(np.rint(np.exp((scores - highest) / beta) * _FIXED_POINT).astype(np.int64).sum())

    total = sum(reader.map(terms))
    value = highest + beta * (np.log(total / size) - np.log(_FIXED_POINT))
    return Estimate(np.array([[value]], np.float32), np.array([size]))


def _means(reader: ScoreReader, groups: int, grouped: bool) -> Estimate:
    total = Moments(groups, squares=False)

    def count(batch: ScoreBatch) -> Moments:
        found = Moments(groups, squares=False)
        finite = ~np.isnan(batch.scores)
        found.add(batch.scores[finite], _groups(batch, finite) if grouped else None)
        return found

    for found in reader.map(count):
        total.merge(found)
    values = np.array([[total.mean(group) for group in range(groups)]], np.float32)
    return Estimate(values, total.count)


def _shapes(reader: ScoreReader, estimator: str, groups: int, grouped: bool) -> Estimate:
    ends = list(reader.map(_ends))
    span = mixtures.Range(min(low for low, _ in ends), max(high for _, high in ends))

    def count(batch: ScoreBatch) -> NDArray[np.int64]:
        finite = ~np.isnan(batch.scores)
        bins = span.bins(batch.scores[finite])
        if grouped:
            bins += _groups(batch, finite) * mixtures.BINS
        return np.bincount(bins, minlength=groups * mixtures.BINS)

    counts = np.sum(list(reader.map(count)), axis=0).reshape(groups, mixtures.BINS)
    cut = mixtures.otsu if estimator == "otsu" else mixtures.mixture
    values = [cut(row, span) if row.any() else np.nan for row in counts]
    return Estimate(np.array([values], np.float32), counts.sum(axis=1))


def _oracle(
    scores: NDArray[np.float64],
    highest: NDArray[np.float64],
    first: NDArray[np.int64],
    sizes: NDArray[np.int64],
    beta: float,
) -> NDArray[np.float64]:
    """``beta log mean exp(s / beta)`` of consecutive runs, without overflow.

    The baseline ``beta log Z(c)`` of TGO (arXiv:2605.04653), from samples of the reference.
    """
    terms = np.rint(np.exp((scores - np.repeat(highest, sizes)) / beta) * _FIXED_POINT)
    sums = np.add.reduceat(terms.astype(np.int64), first)
    return highest + beta * (np.log(sums / sizes) - np.log(_FIXED_POINT))


def _sorted_by_group(
    scores: Scores, group: NDArray[np.int64], groups: int
) -> tuple[Scores, NDArray[np.int64]]:
    """Scores sorted by group, then value; NaN are left out. And how many each group has."""
    finite = ~np.isnan(scores)
    group = group[finite]
    keys = group.astype(np.uint64) << np.uint64(32) | to_keys(scores[finite])
    keys.sort()
    return from_keys(keys.astype(np.uint32)), np.bincount(group, minlength=groups)


def _groups(batch: ScoreBatch, finite: NDArray[np.bool_]) -> NDArray[np.int64]:
    assert batch.group is not None
    return batch.group[finite]


def _ends(batch: ScoreBatch) -> tuple[float, float]:
    scores = batch.finite_scores
    return float(scores.min(initial=np.inf)), float(scores.max(initial=-np.inf))


def _highest(batch: ScoreBatch) -> tuple[float, int]:
    scores = batch.finite_scores
    return float(scores.max(initial=-np.inf)), len(scores)
