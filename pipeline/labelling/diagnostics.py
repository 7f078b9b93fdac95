"""How far labels can be trusted: intervals, disagreements, the shift of the threshold, counts.

`diagnose` looks at a sample of whole prompts before labels are written; `count` looks at every
row while they are.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tgo.pipeline.config.label_settings import PROMPT, Label
from tgo.pipeline.errors import InputError
from tgo.pipeline.labelling import reliability, subsample
from tgo.pipeline.labelling.labeller import LabelledRows, Labeller
from tgo.pipeline.labelling.rule import EXCLUDED
from tgo.pipeline.labelling.score_reader import ScoreReader, encode
from tgo.pipeline.labelling.subsample import Sample
from tgo.pipeline.labelling.thresholds import ByColumn, Global, Scores, shrunken
from tgo.pipeline.storage import label_record, shards
from tgo.pipeline.storage.label_record import EarlierThreshold

SHOWN_GROUPS = 50
"""Groups of a column whose intervals are estimated and whose figures are shown, largest first."""


@dataclass(frozen=True)
class ThresholdInterval:
    """A lower and an upper threshold for every group of rows."""

    low: Scores
    """float32 [groups], or [1] for all."""
    high: Scores
    names: tuple[str, ...] = ()
    """The groups, sorted; empty if there is one threshold."""


@dataclass
class LabelCounts:
    """Counts of rows that have a score; those of shards add up."""

    n: int = 0
    positives: int = 0
    ties: int = 0
    """Rows whose score equals their threshold."""
    inside: int = 0
    """Rows whose label another threshold inside the interval would flip."""
    changed: int = 0
    """Rows that the earlier threshold labels differently from the global one."""
    group_rows: Counter[str] = field(default_factory=Counter)
    group_positives: Counter[str] = field(default_factory=Counter)

    def merge(self, other: LabelCounts) -> None:
        """Add another shard's."""
        for name in ("n", "positives", "ties", "inside", "changed"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.group_rows += other.group_rows
        self.group_positives += other.group_positives


@dataclass(frozen=True)
class Diagnosis:
    """What is known of a labeller besides its labels."""

    column: str
    """The column by which class balance is counted: the scope's, or the domain."""
    sample: Sample
    interval: ThresholdInterval
    overall: tuple[float, float]
    """Interval of the global threshold."""
    shift: ThresholdInterval | None
    """The earlier and today's global threshold, the lower first."""
    earlier: dict[str, Any] | None
    """The earlier threshold.json."""
    between_prompts: float | None
    between_column: float | None
    versus_prompt: float | None
    """Share of labels that differ between the global threshold and one per prompt."""
    versus_oracle: float | None
    oracle_beta: float | None
    resampled_flips: float | None
    """With thresholds per prompt: share of labels that flip when its images are resampled."""
    agreement: dict[str, float]


def diagnose(labeller: Labeller, *, seed: int, threads: int = 1) -> Diagnosis:
    """Diagnose a labeller; every figure comes from a sample of whole prompts.

    Raises InputError if the earlier threshold is missing or of another scalar.
    """
    rule, by_prompt = labeller.rule, labeller.rule.scope == PROMPT
    column = rule.scope if rule.grouped and not by_prompt else "domain"
    rows = subsample.draw(labeller, column, threads)
    groups = rows.groups
    overall = labeller.thresholds.overall
    interval, ends = _intervals(labeller, rows, column, seed, threads)
    earlier = _earlier(rule, labeller.scalar.unit)
    beta = rule.oracle_beta or _within_std(rows.scores, groups)
    percentile = 50.0 if rule.percentile is None else rule.percentile
    per_prompt = rule.model_copy(
        update={"estimator": "percentile", "percentile": percentile, "ordinal": None}
    )
    oracle = rule.model_copy(update={"estimator": "oracle", "oracle_beta": beta, "ordinal": None})
    global_ = float(overall[0])
    return Diagnosis(
        column,
        rows,
        ends,
        interval,
        _shift(earlier, global_),
        earlier,
        reliability.between_group_share(rows.scores, groups),
        _between_column(rows),
        reliability.disagreement(rows.scores, groups, global_, per_prompt),
        reliability.disagreement(rows.scores, groups, global_, oracle) if beta else None,
        beta,
        reliability.resampled_flips(rows.scores, groups, overall, rule, seed=seed)
        if by_prompt and not rule.proxy
        else None,
        reliability.agreement(rows.rewards, percentile, rule.ties),
    )


def _intervals(
    labeller: Labeller, rows: Sample, column: str, seed: int, threads: int
) -> tuple[tuple[float, float], ThresholdInterval]:
    """Of the global threshold; and of the thresholds that rows have, group by group."""
    source, total = rows, int(labeller.statistics.moments.count[0])
    if labeller.rule.proxy:
        source, total = _proxy_rows(labeller, column, threads)
    interval = reliability.threshold_interval(
        source.scores, source.groups, labeller.rule, seed=seed, rows=total
    )
    if not isinstance(labeller.thresholds, ByColumn):
        low, high = (np.array([end], np.float32) for end in interval)
        return interval, ThresholdInterval(low, high)
    return interval, _group_intervals(labeller.thresholds, source, labeller.rule, seed)


def _group_intervals(
    thresholds: ByColumn, source: Sample, rule: Label, seed: int
) -> ThresholdInterval:
    """Intervals of the largest groups; of the others none is estimated (both ends are equal)."""
    low, high = thresholds.values[0].copy(), thresholds.values[0].copy()
    names = thresholds.reader.names
    for group in np.argsort(-thresholds.sizes, kind="stable")[:SHOWN_GROUPS]:
        own = source.take(source.column == names[group])
        if not len(own):
            continue
        ends = reliability.threshold_interval(
            own.scores, own.groups, rule, seed=seed, rows=int(thresholds.sizes[group])
        )
        for end, values in zip(ends, (low, high), strict=True):
            estimate = thresholds.with_value(int(group), end)
            values[group] = shrunken(estimate, thresholds.overall[:1], rule.shrinkage)[0, 0]
    return ThresholdInterval(low, high, tuple(names))


def _proxy_rows(labeller: Labeller, column: str, threads: int) -> tuple[Sample, int]:
    """A sample of the rows that the threshold was estimated from, and how many those are."""
    assert labeller.rule.proxy is not None
    paths = shards.shard_paths(Path(labeller.rule.proxy))
    reader = ScoreReader(paths, labeller.scalar, threads=threads)
    models = {name: labeller.models[name] for name in labeller.rule.reward}
    rule = labeller.rule.model_copy(update={"weights": "none", "ordinal": None})
    other = replace(
        labeller,
        reader=reader,
        rule=rule,
        models=models,
        thresholds=Global(reader, labeller.thresholds.overall),
    )
    total = sum(reader.map(lambda batch: len(batch.finite_scores)))
    return subsample.draw(other, column, threads), total


def _between_column(rows: Sample) -> float | None:
    _, numbers = np.unique(rows.column.astype(str), return_inverse=True)
    return reliability.between_group_share(rows.scores, numbers)


def _within_std(scores: NDArray[np.float32], groups: NDArray[np.int64]) -> float | None:
    """Standard deviation of scores around their prompts' means; None if it is 0."""
    values = scores.astype(np.float64)
    means = np.bincount(groups, values) / np.bincount(groups)
    freedom = len(values) - len(means)
    if not freedom:
        return None
    return float(np.sqrt(((values - means[groups]) ** 2).sum() / freedom)) or None


def _shift(earlier: dict[str, Any] | None, now: float) -> ThresholdInterval | None:
    if earlier is None:
        return None
    low, high = sorted((np.float32(earlier["threshold"]), np.float32(now)))
    return ThresholdInterval(np.array([low], np.float32), np.array([high], np.float32))


def _earlier(rule: Label, unit: str) -> dict[str, Any] | None:
    """The record that `label.earlier` names; InputError unless its scalar is the same."""
    if rule.earlier is None:
        return None
    remedy = "name an earlier threshold.json in label.earlier, or set it to null"
    found = label_record.read(Path(rule.earlier), remedy, EarlierThreshold)
    compared = [("reward", found["reward"], rule.name), ("unit", found["unit"], unit)]
    for what, then, now in compared:
        if then != now:
            raise InputError(
                f"{rule.earlier}: its {what} is {then!r}, not {now!r}, so the thresholds cannot be "
                "compared; name another file in label.earlier, or set it to null"
            )
    return found


def count(rows: LabelledRows, diagnosis: Diagnosis, ties: str) -> LabelCounts:
    """Count labels by the values of `diagnosis.column`, which `rows.batch.table` holds."""
    assert rows.batch.table is not None
    values, group = encode(rows.batch.table[diagnosis.column])
    names = values.to_pylist()
    cell = 3 * group + (rows.label - EXCLUDED)  # per group: rows excluded, negative, positive
    found = np.bincount(cell, minlength=3 * len(names)).reshape(-1, 3)
    labelled, positives = found[:, 1] + found[:, 2], found[:, 2]
    interval, shift = diagnosis.interval, diagnosis.shift
    slot = np.searchsorted(interval.names, names)[group] if interval.names else 0
    scores = rows.batch.scores
    return LabelCounts(
        int(labelled.sum()),
        int(positives.sum()),
        int(np.count_nonzero(scores == rows.threshold)),
        _between(scores, interval.low[slot], interval.high[slot], ties),
        _between(scores, shift.low[0], shift.high[0], ties) if shift else 0,
        Counter(dict(zip(names, labelled.tolist(), strict=True))),
        Counter(dict(zip(names, positives.tolist(), strict=True))),
    )


def _between(scores: Scores, low: Scores, high: Scores, ties: str) -> int:
    """Rows that the lower threshold makes positive and the higher one negative."""
    if ties == "positive":
        return int(np.count_nonzero((scores >= low) & (scores < high)))
    return int(np.count_nonzero((scores > low) & (scores <= high)))
