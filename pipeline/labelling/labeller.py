"""A rule fitted to the scores: everything estimated that labelling a row needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tgo.pipeline.config.label_settings import RATING_ERROR, Label
from tgo.pipeline.errors import InputError
from tgo.pipeline.labelling import thresholds
from tgo.pipeline.labelling.rule import (
    ScoreStatistics,
    labels,
    score_statistics,
    targets,
    weights,
)
from tgo.pipeline.labelling.scalar import Mask, Ranks, Scalar, Scores, unit_of
from tgo.pipeline.labelling.score_reader import (
    ScoreBatch,
    ScoreReader,
    in_order,
    numbers,
    usable_by,
    usable_rows,
)
from tgo.pipeline.labelling.stats.moments import Moments
from tgo.pipeline.storage import label_record, origin, shards
from tgo.pipeline.storage.atomic import canonical


@dataclass(frozen=True)
class LabelledRows:
    """Some rows of a shard with their labels; arrays [n]."""

    batch: ScoreBatch
    usable: Mask
    threshold: Scores
    """Each row's own."""
    label: NDArray[np.int8]
    weight: NDArray[np.float32]
    target: Scores | None
    """Graded target; None unless the rule is ordinal."""


@dataclass(frozen=True)
class Labeller:
    """A rule with its thresholds and the statistics that weights need."""

    reader: ScoreReader
    rule: Label
    models: dict[str, dict[str, Any]]
    """The reward models as the scored shards describe them."""
    statistics: ScoreStatistics
    thresholds: thresholds.Thresholds
    ranks: Ranks | None
    """Of all scores; None unless weights are ranks."""

    @property
    def paths(self) -> list[Path]:
        """The scored shards."""
        return self.reader.paths

    @property
    def scalar(self) -> Scalar:
        """How columns of scores become one score."""
        return self.reader.scalar

    @cached_property
    def identity(self) -> str:
        """Of the rule and the scores (`label_record`)."""
        return label_record.identity(self.paths, self.rule)

    @cached_property
    def std(self) -> float:
        """Standard deviation of the scores: the unit of weights that are not raw."""
        return self.statistics.moments.std()

    def shard(self, path: Path, extra: Sequence[str] = ()) -> Iterator[LabelledRows]:
        """A shard's rows in batches, labelled, with the columns `extra` in `batch.table`."""
        return map(self._label, self.thresholds.shard(path, extra))

    def all_rows(self) -> Iterator[LabelledRows]:
        """All rows in batches, labelled; from memory where they are held."""
        return map(self._label, self.thresholds.all_rows())

    def _label(self, found: tuple[ScoreBatch, Scores]) -> LabelledRows:
        (batch, own), rule = found, self.rule
        usable = ~np.isnan(batch.scores)
        threshold = np.broadcast_to(own[0], len(usable))
        weight = weights(batch.scores, usable, threshold, rule, self.std, self.ranks, batch.error)
        if not np.isfinite(weight).all():
            raise InputError(
                f"{batch.path}: label.weights = {rule.weights!r} gives weights beyond float32; set "
                "it to capped or rank"
            )
        return LabelledRows(
            batch,
            usable,
            threshold,
            labels(batch.scores, usable, threshold, rule.ties),
            weight,
            targets(batch.scores, usable, own[1:], rule.ties) if rule.ordinal else None,
        )


@dataclass(frozen=True)
class ScoresRead:
    """One scalar of all rows, read once: what rules that differ in the threshold share."""

    reader: ScoreReader
    models: dict[str, dict[str, Any]]
    statistics: ScoreStatistics


def fit(
    scored: Path, rule: Label, *, threads: int = 1, cache: dict[str, ScoresRead] | None = None
) -> Labeller:
    """Fit a rule to a scored folder.

    Args:
        scored: a folder of scored shards.
        rule: the settings of stage two.
        threads: shards read at once.
        cache: keeps what later rules of the same scalar can use.

    Returns:
        What labels the rows: the scalar, its thresholds and its weights.

    Raises:
        InputError: a shard is missing, damaged or lacks a column, a row lacks a score and the
            rule refuses that, no row is usable, or the rule cannot be applied to them.
    """
    scalar = canonical(
        [
            list(rule.reward.items()),
            rule.standardise,
            rule.missing,
            rule.error == RATING_ERROR,
            rule.model_dump()["filter"],
        ]
    )
    found = (cache or {}).get(scalar) or _read(scored, rule, threads)
    if cache is not None:
        cache[scalar] = found
    proxy = shards.shard_paths(Path(rule.proxy)) if rule.proxy else []
    return Labeller(
        found.reader,
        rule,
        found.models,
        found.statistics,
        thresholds.fit(found.reader, proxy, rule, found.statistics.first_pass),
        Ranks(_all_scores(found.reader)) if rule.weights == "rank" else None,
    )


def _read(scored: Path, rule: Label, threads: int) -> ScoresRead:
    paths = shards.shard_paths(scored)
    models = shards.read_metadata(paths[0])["tgo.rewards"]
    columns = shards.read_schema(paths[0]).names
    if rule.scope not in ("global", "prompt", *columns):
        known = (*shards.FIXED_COLUMNS, *models, origin.COUNT, RATING_ERROR)
        kept = ", ".join(name for name in columns if name not in known)
        raise InputError(
            f"{paths[0]}: has no column {rule.scope!r}; label.scope is global, prompt, domain"
            f"{', ' * bool(kept)}{kept}, or a column brought along with `tgo import --keep`"
        )
    for name in (*rule.reward, *(rule.filter or ())):
        if name not in (models if name in rule.reward else columns):
            raise InputError(
                f"{paths[0]}: has no column {name!r}; run `tgo score` again with that reward "
                "model in params.yaml"
            )
    reader = ScoreReader(
        paths,
        _fit_scalar(paths, rule, models, threads),
        error=RATING_ERROR if rule.error == RATING_ERROR else None,
        threads=threads,
    )
    statistics = score_statistics(reader)
    if not statistics.moments.count[0]:
        raise InputError(
            f"{scored}: has no usable row (every status is failed, or every score missing); look "
            "at the column `error`, mend its cause and run `tgo score` again"
            if not statistics.filtered
            else f"label.filter leaves out all {statistics.filtered:,} usable rows of {scored}; "
            "give it wider limits, or set it to null"
        )
    return ScoresRead(reader, models, statistics)


def _fit_scalar(
    paths: list[Path], rule: Label, models: Mapping[str, Mapping[str, Any]], threads: int
) -> Scalar:
    unit = unit_of(rule, models)
    if rule.standardise == "none":
        return Scalar(rule, unit)
    columns = {name: _column(paths, name, rule, threads) for name in rule.reward}
    if rule.standardise == "rank":
        ranks = {name: Ranks(np.concatenate(list(parts))) for name, parts in columns.items()}
        return Scalar(rule, unit, ranks=ranks)
    moments = {name: Moments() for name in rule.reward}
    for name, parts in columns.items():
        for scores in parts:
            moments[name].add(scores)
    return Scalar(rule, unit, moments=moments)


def _column(paths: list[Path], name: str, rule: Label, threads: int) -> Iterator[Scores]:
    """The finite scores of one reward model in usable rows, shard by shard."""

    def look(path: Path) -> Scores:
        parts = []
        for table in shards.batches(path, list(dict.fromkeys([name, *usable_by(rule)]))):
            values = numbers(table[name])
            parts.append(values[usable_rows(table, rule)[0] & np.isfinite(values)])
        return np.concatenate(parts)

    return in_order(paths, look, threads)


def _all_scores(reader: ScoreReader) -> Scores:
    return np.concatenate(list(reader.map(lambda batch: batch.finite_scores)))
