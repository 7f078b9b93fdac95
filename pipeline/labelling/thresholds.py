"""Which threshold a row has: one for all, one per value of a column, one per prompt.

A group's threshold is shrunk towards the global one by its sample size,

    t_g' = (n_g t_g + k t) / (n_g + k),    k = label.shrinkage (0 if null),

and is the global one where the group has fewer than two rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tgo.pipeline.config.label_settings import PROMPT, Label
from tgo.pipeline.errors import InputError
from tgo.pipeline.labelling.estimators import Estimate, Scores, gathered, oracle_of_all, streamed
from tgo.pipeline.labelling.score_reader import (
    ScoreBatch,
    ScoreReader,
    encode,
    group_names,
    in_order,
    index_in,
)
from tgo.pipeline.storage.hashing import hash_strings

PROMPT_COLUMN = "prompt_id"
LEAST_ROWS = 2
"""Rows a group needs for a threshold of its own."""


class Thresholds(Protocol):
    """The thresholds of every row."""

    @property
    def overall(self) -> Scores:
        """The global thresholds, float32 [1 + ordinal]."""
        ...

    def shard(self, path: Path, extra: Sequence[str]) -> Iterator[tuple[ScoreBatch, Scores]]:
        """A shard's rows with the columns `extra`, and their thresholds [1 + ordinal, n or 1]."""
        ...

    def all_rows(self) -> Iterator[tuple[ScoreBatch, Scores]]:
        """All rows likewise, without further columns; from memory where they are held."""
        ...


def shrunken(own: Estimate, overall: Scores, shrinkage: float | None) -> Scores:
    """Group thresholds [K, G] shrunk towards the global ones `overall` [K]; float32 [K, G]."""
    k = shrinkage or 0.0
    sizes = own.sizes.astype(np.float64)
    pooled = overall[:, None].astype(np.float64)
    with np.errstate(invalid="ignore"):
        mixed = (sizes * own.values + k * pooled) / (sizes + k)
    return np.where(sizes >= LEAST_ROWS, mixed, pooled).astype(np.float32)


@dataclass(frozen=True)
class Global:
    """One threshold."""

    reader: ScoreReader
    overall: Scores

    def shard(self, path: Path, extra: Sequence[str]) -> Iterator[tuple[ScoreBatch, Scores]]:
        for batch in self.reader.shard(path, extra):
            yield batch, self.overall[:, None]

    def all_rows(self) -> Iterator[tuple[ScoreBatch, Scores]]:
        return self.reader.map(lambda batch: (batch, self.overall[:, None]))


@dataclass(frozen=True)
class ByColumn:
    """One threshold per value of a column."""

    reader: ScoreReader
    overall: Scores
    values: Scores
    """float32 [1 + ordinal, groups], in the order of `reader.names`."""
    sizes: NDArray[np.int64]

    def with_value(self, group: int, value: float) -> Estimate:
        """An estimate of one group with another threshold."""
        return Estimate(np.full((1, 1), value, np.float32), self.sizes[group : group + 1])

    def shard(self, path: Path, extra: Sequence[str]) -> Iterator[tuple[ScoreBatch, Scores]]:
        for batch in self.reader.shard(path, extra):
            yield batch, self.values[:, batch.group]

    def all_rows(self) -> Iterator[tuple[ScoreBatch, Scores]]:
        return self.reader.map(lambda batch: (batch, self.values[:, batch.group]))


@dataclass(frozen=True)
class ByPrompt:
    """One threshold per prompt, made shard by shard: no table of all prompts is held."""

    reader: ScoreReader
    overall: Scores
    rule: Label
    stored: PromptThresholds
    """Prompts whose thresholds do not come from the rows of one shard alone."""

    def shard(self, path: Path, extra: Sequence[str]) -> Iterator[tuple[ScoreBatch, Scores]]:
        """Reads the shard's scores and prompts whole first."""
        names, index, scores = _prompts_of(self.reader, path)
        own = self.stored.insert(names, gathered(scores, index, len(names), self.rule))
        values = shrunken(own, self.overall, self.rule.shrinkage)
        for batch in self.reader.shard(path, extra):
            yield batch, values[:, index[batch.start : batch.start + len(batch.scores)]]

    def all_rows(self) -> Iterator[tuple[ScoreBatch, Scores]]:
        for path in self.reader.paths:
            yield from self.shard(path, [])


@dataclass(frozen=True)
class PromptThresholds:
    """Thresholds of named prompts."""

    names: pa.Array
    estimate: Estimate
    complete: bool
    """Whether prompts that are not in the table have no threshold of their own (a proxy set)."""

    def insert(self, names: pa.Array, own: Estimate) -> Estimate:
        """An estimate of prompts `names`, those that are stored put in their places."""
        if not len(self.names) and not self.complete:
            return own
        at = index_in(names, self.names)
        known = at >= 0
        values, sizes = own.values.copy(), np.where(self.complete, 0, own.sizes)
        values[:, known] = self.estimate.values[:, at[known]]
        sizes[known] = self.estimate.sizes[at[known]]
        return Estimate(values, sizes)


def fit(
    reader: ScoreReader,
    proxy: Sequence[Path],
    rule: Label,
    first_pass: NDArray[np.int64] | None = None,
) -> Thresholds:
    """The thresholds of the training rows, estimated from them or from the shards `proxy`.

    `first_pass` is the first pass of a percentile of the training rows, if there has been one.
    Raises InputError if no row can be estimated from, or no prompt has several.
    """
    scalar, threads = reader.scalar, reader.threads
    source = ScoreReader(proxy, scalar, threads=threads) if proxy else reader
    if proxy and not any(list(source.map(lambda batch: bool((~np.isnan(batch.scores)).any())))):
        raise InputError(
            f"{rule.proxy}: has no usable row; name a folder of scored shards in label.proxy"
        )
    if rule.estimator == "oracle":
        assert rule.oracle_beta is not None
        overall = oracle_of_all(source, rule.oracle_beta).values[:, 0]
    else:
        known = None if proxy else first_pass
        overall = streamed(source, rule, grouped=False, first_pass=known).values[:, 0]
    if not rule.grouped:
        return Global(reader, overall)
    if rule.scope == PROMPT:
        return ByPrompt(
            reader, overall, rule, _prompt_thresholds(source, rule, from_proxy=bool(proxy))
        )
    names = group_names(reader.paths, rule.scope, threads)
    reader = ScoreReader(
        reader.paths,
        scalar,
        column=rule.scope,
        names=names,
        error=reader.error,
        threads=threads,
    )
    of_proxy = ScoreReader(proxy, scalar, column=rule.scope, names=names, threads=threads)
    own = streamed(of_proxy if proxy else reader, rule, grouped=True)
    return ByColumn(reader, overall, shrunken(own, overall, rule.shrinkage), own.sizes)


def _prompt_thresholds(source: ScoreReader, rule: Label, *, from_proxy: bool) -> PromptThresholds:
    """Thresholds of prompts that lie in several shards, or of all prompts of a proxy set."""
    several = 0
    hashes = []
    for names, index, scores in in_order(
        source.paths, lambda path: _prompts_of(source, path), source.threads
    ):
        hashes.append(hash_strings(names))
        sizes = np.bincount(index[~np.isnan(scores)], minlength=len(names))
        several += int((sizes >= LEAST_ROWS).sum())
    split = _repeated(np.concatenate(hashes))
    if not several and not len(split):
        raise InputError(
            f"{source.paths[0].parent}: label.scope = 'prompt' needs several usable images a "
            "prompt, and every prompt has one; raise score.images_per_prompt to 4 or so, or set "
            "label.scope to global or domain"
        )
    if not from_proxy and not len(split):
        nothing = Estimate(np.empty((1, 0), np.float32), np.empty(0, np.int64))
        return PromptThresholds(pa.array([], pa.string()), nothing, complete=False)
    return _gather(source, rule, None if from_proxy else split)


def _gather(source: ScoreReader, rule: Label, split: NDArray[np.uint64] | None) -> PromptThresholds:
    """Thresholds of the prompts whose hashes are in `split` (None: of all), rows held in memory."""
    rows_names: list[pa.Array] = []
    rows_scores: list[Scores] = []
    for path in source.paths:
        names, index, scores = _prompts_of(source, path)
        wanted = np.ones(len(names), bool) if split is None else np.isin(hash_strings(names), split)
        kept = wanted[index]
        rows_names.append(names.take(pa.array(index[kept])))
        rows_scores.append(scores[kept])
    coded = pa.chunked_array(rows_names).cast(pa.string())
    names, index = encode(coded)
    own = gathered(np.concatenate(rows_scores), index, len(names), rule)
    return PromptThresholds(names, own, complete=split is None)


def _prompts_of(reader: ScoreReader, path: Path) -> tuple[pa.Array, NDArray[np.int64], Scores]:
    """A shard's prompts, per row the number of its prompt, and its scores."""
    batches = list(reader.shard(path, [PROMPT_COLUMN]))
    columns = [chunk for batch in batches for chunk in batch.table[PROMPT_COLUMN].chunks]  # type: ignore[index]
    names, index = encode(pa.chunked_array(columns))
    return names.cast(pa.string()), index, np.concatenate([batch.scores for batch in batches])


def _repeated(hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The values that occur more than once."""
    hashes = np.sort(hashes)
    return np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
