"""From a rule to every row's label: the scalar fitted, the thresholds found, the rows marked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tgo.pipeline.config.label_settings import Label
from tgo.pipeline.errors import InputError
from tgo.pipeline.labelling import thresholds
from tgo.pipeline.labelling.scalar import Ranks, Scalar, Scores, unit_of
from tgo.pipeline.labelling.score_reader import Feed, Part, in_order, numbers, usable_rows
from tgo.pipeline.labelling.stats.moments import Moments
from tgo.pipeline.labelling.stats.quantiles import Selection
from tgo.pipeline.labelling.weights import labels, targets, weights
from tgo.pipeline.storage import shards
from tgo.pipeline.storage.atomic import canonical


@dataclass(frozen=True)
class Marked:
    """Some rows of a shard with what stage two says of them; arrays [n]."""

    part: Part
    usable: NDArray[np.bool_]
    threshold: Scores
    label: NDArray[np.int8]
    weight: NDArray[np.float32]
    target: Scores | None
    """Graded target; None unless the rule is ordinal."""


@dataclass(frozen=True)
class Plan:
    """A rule with everything estimated that it needs."""

    paths: list[Path]
    rule: Label
    scalar: Scalar
    models: dict[str, dict[str, Any]]
    """The reward models as the scored shards describe them."""
    cutoffs: thresholds.Cutoffs
    moments: Moments
    """Of the scalar over all rows that have one."""
    rows: int
    missing: dict[str, int]
    ranks: Ranks | None

    @cached_property
    def std(self) -> float:
        """Standard deviation of the scalar: the unit of weights that are not raw."""
        return self.moments.std()

    @property
    def schema(self) -> pa.Schema:
        """Of a labelled shard: with a column `target` if the rule is ordinal."""
        schema = shards.LABELLED_SCHEMA
        if self.rule.ordinal:
            schema = schema.append(pa.field("target", pa.float32()))
        told = self.rule.model_dump() | {"thresholds": self.cutoffs.overall.tolist()}
        return schema.with_metadata({"tgo.label": canonical(told)})

    def marked(self, path: Path, extra: Sequence[str] = ()) -> Iterator[Marked]:
        """A shard's rows in batches, labelled, with the columns `extra` in `part.table`."""
        return map(self._mark, self.cutoffs.parts(path, extra))

    def each(self) -> Iterator[Marked]:
        """All rows in batches, labelled; from memory where they are held."""
        return map(self._mark, self.cutoffs.each())

    def _mark(self, found: tuple[Part, Scores]) -> Marked:
        (part, cuts), rule = found, self.rule
        usable = ~np.isnan(part.scores)
        threshold = np.broadcast_to(cuts[0], len(usable))
        weight = weights(part.scores, usable, threshold, rule, self.std, self.ranks)
        if not np.isfinite(weight).all():
            raise InputError(
                f"{part.path}: label.weights = {rule.weights!r} gives weights beyond float32; set "
                "it to capped or rank"
            )
        return Marked(
            part,
            usable,
            threshold,
            labels(part.scores, usable, threshold, rule.ties),
            weight,
            targets(part.scores, usable, cuts[1:], rule.ties) if rule.ordinal else None,
        )

    def table(self, marked: Marked) -> pa.Table:
        """The labelled rows; `part.table` must hold the ids."""
        assert marked.part.table is not None
        columns = [
            marked.part.table["id"],
            _arrow(marked.part.scores, pa.float32(), marked.usable),
            _arrow(marked.threshold, pa.float32()),
            _arrow(marked.label, pa.int8()),
            _arrow(marked.weight, pa.float32()),
        ]
        if marked.target is not None:
            columns.append(_arrow(marked.target, pa.float32(), marked.usable))
        return pa.Table.from_arrays(columns, schema=self.schema)


def _arrow(
    values: NDArray[Any], kind: pa.DataType, there: NDArray[np.bool_] | None = None
) -> pa.Array:
    """An array over the memory of `values`, null where not `there`; `pa.array` would copy it."""
    valid = None if there is None else pa.py_buffer(np.packbits(there, bitorder="little"))
    held = pa.py_buffer(np.ascontiguousarray(values))
    return pa.Array.from_buffers(kind, len(values), [valid, held])


@dataclass(frozen=True)
class Surveyed:
    """The scalar of all rows, read once: what rules that differ in the threshold share."""

    feed: Feed
    models: dict[str, dict[str, Any]]
    moments: Moments
    rows: int
    missing: dict[str, int]
    leading: NDArray[np.int64]
    """The first pass of every percentile, made in the same reading."""


def make(
    scored: Path, rule: Label, *, threads: int = 1, read: dict[str, Surveyed] | None = None
) -> Plan:
    """Fit a rule to a scored folder; `read` keeps what later rules of the same scalar can use.

    Raises InputError when a shard is missing, damaged or lacks a column, when a row lacks a score
    and the rule refuses that, when no row is usable, and when the rule cannot be applied to them.
    """
    scalar = canonical([list(rule.reward.items()), rule.standardise, rule.missing])
    found = (read or {}).get(scalar) or _survey_folder(scored, rule, threads)
    if read is not None:
        read[scalar] = found
    proxy = shards.shard_paths(Path(rule.proxy)) if rule.proxy else []
    return Plan(
        found.feed.paths,
        rule,
        found.feed.scalar,
        found.models,
        thresholds.find(found.feed, proxy, rule, found.leading),
        found.moments,
        found.rows,
        found.missing,
        Ranks(_all_scores(found.feed)) if rule.weights == "rank" else None,
    )


def _survey_folder(scored: Path, rule: Label, threads: int) -> Surveyed:
    paths = shards.shard_paths(scored)
    models = shards.read_metadata(paths[0])["tgo.rewards"]
    for name in rule.reward:
        if name not in models:
            raise InputError(
                f"{paths[0]}: has no column {name!r}; run `tgo score` again with that reward "
                "model in params.yaml"
            )
    feed = Feed(paths, _fit(paths, rule, models, threads), threads=threads)
    found = survey(feed, models)
    if not found.moments.count[0]:
        raise InputError(
            f"{scored}: has no usable row (every status is failed, or every score missing); look "
            "at the column `error`, mend its cause and run `tgo score` again"
        )
    return found


def survey(feed: Feed, models: dict[str, dict[str, Any]]) -> Surveyed:
    """Moments of a feed's scores, how many rows it has, and how many lack each reward's score."""

    def look(part: Part) -> tuple[int, dict[str, int], Moments, NDArray[np.int64]]:
        there = part.scores[~np.isnan(part.scores)]
        found = Moments()
        found.add(there)
        return len(part.scores), part.missing, found, Selection([50.0]).count(there)

    moments, rows = Moments(), 0
    missing = dict.fromkeys(feed.scalar.rule.reward, 0)
    leading = Selection([50.0]).count(np.empty(0, np.float32))
    for count, lacking, found, digits in feed.each(look):
        moments.merge(found)
        leading += digits
        rows += count
        missing = {name: missing[name] + lacking[name] for name in missing}
    return Surveyed(feed, models, moments, rows, missing, leading)


def _fit(
    paths: list[Path], rule: Label, models: Mapping[str, Mapping[str, Any]], threads: int
) -> Scalar:
    unit = unit_of(rule, models)
    if rule.standardise == "z-score":
        return Scalar(rule, unit, moments=_moments(paths, rule, threads))
    if rule.standardise == "rank":
        ranks = {name: Ranks(_column(paths, name, threads)) for name in rule.reward}
        return Scalar(rule, unit, ranks=ranks)
    return Scalar(rule, unit)


def _moments(paths: list[Path], rule: Label, threads: int) -> dict[str, Moments]:
    def look(path: Path) -> dict[str, Moments]:
        found = {name: Moments() for name in rule.reward}
        for table in shards.batches(path, ["status", *rule.reward]):
            usable = usable_rows(table)
            for name, moments in found.items():
                values = numbers(table[name])
                moments.add(values[usable & np.isfinite(values)])
        return found

    total = {name: Moments() for name in rule.reward}
    for found in in_order(paths, look, threads):
        for name, moments in found.items():
            total[name].merge(moments)
    return total


def _column(paths: list[Path], name: str, threads: int) -> Scores:
    def look(path: Path) -> Scores:
        parts = []
        for table in shards.batches(path, ["status", name]):
            values = numbers(table[name])
            parts.append(values[usable_rows(table) & np.isfinite(values)])
        return np.concatenate(parts)

    return np.concatenate(list(in_order(paths, look, threads)))


def _all_scores(feed: Feed) -> Scores:
    return np.concatenate(list(feed.each(lambda part: part.scores[~np.isnan(part.scores)])))
