"""Which threshold a row has: one for all, one per value of a column, one per prompt.

A group's threshold is drawn to the global one by its sample size,

    t_g' = (n_g t_g + k t) / (n_g + k),    k = label.shrinkage (0 if null),

and is the global one where fewer than two rows speak for it.
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
from tgo.pipeline.labelling.score_reader import Feed, Part, encode, in_order, names_in, places_in
from tgo.pipeline.storage.hashing import hash_strings

PROMPT_COLUMN = "prompt_id"
LEAST_ROWS = 2
"""Rows a group needs for a threshold of its own."""


class Cutoffs(Protocol):
    """The thresholds of every row."""

    @property
    def overall(self) -> Scores:
        """The global thresholds, float32 [1 + ordinal]."""
        ...

    def parts(self, path: Path, extra: Sequence[str]) -> Iterator[tuple[Part, Scores]]:
        """A shard's rows with the columns `extra`, and their thresholds [1 + ordinal, n or 1]."""
        ...

    def each(self) -> Iterator[tuple[Part, Scores]]:
        """All rows likewise, without further columns; from memory where they are held."""
        ...


def drawn(own: Estimate, overall: Scores, shrinkage: float | None) -> Scores:
    """Group thresholds [K, G] drawn to the global ones [K]; float32."""
    k = shrinkage or 0.0
    sizes = own.sizes.astype(np.float64)
    pooled = overall[:, None].astype(np.float64)
    with np.errstate(invalid="ignore"):
        mixed = (sizes * own.values + k * pooled) / (sizes + k)
    return np.where(sizes >= LEAST_ROWS, mixed, pooled).astype(np.float32)


@dataclass(frozen=True)
class Global:
    """One threshold."""

    feed: Feed
    overall: Scores

    def parts(self, path: Path, extra: Sequence[str]) -> Iterator[tuple[Part, Scores]]:
        for part in self.feed.parts(path, extra):
            yield part, self.overall[:, None]

    def each(self) -> Iterator[tuple[Part, Scores]]:
        return self.feed.each(lambda part: (part, self.overall[:, None]))


@dataclass(frozen=True)
class ByColumn:
    """One threshold per value of a column."""

    feed: Feed
    overall: Scores
    values: Scores
    """float32 [1 + ordinal, groups], in the order of `feed.names`."""
    sizes: NDArray[np.int64]

    def alone(self, group: int, value: float) -> Estimate:
        """An estimate of one group with another threshold."""
        return Estimate(np.full((1, 1), value, np.float32), self.sizes[group : group + 1])

    def parts(self, path: Path, extra: Sequence[str]) -> Iterator[tuple[Part, Scores]]:
        for part in self.feed.parts(path, extra):
            yield part, self.values[:, part.group]

    def each(self) -> Iterator[tuple[Part, Scores]]:
        return self.feed.each(lambda part: (part, self.values[:, part.group]))


@dataclass(frozen=True)
class ByPrompt:
    """One threshold per prompt, made shard by shard: no table of all prompts is held."""

    feed: Feed
    overall: Scores
    rule: Label
    apart: Table
    """Prompts whose thresholds do not come from the rows of one shard alone."""

    def parts(self, path: Path, extra: Sequence[str]) -> Iterator[tuple[Part, Scores]]:
        """Reads the shard's scores and prompts whole first."""
        names, codes, scores = _prompts_of(self.feed, path)
        own = self.apart.put(names, gathered(scores, codes, len(names), self.rule))
        values = drawn(own, self.overall, self.rule.shrinkage)
        for part in self.feed.parts(path, extra):
            yield part, values[:, codes[part.start : part.start + len(part.scores)]]

    def each(self) -> Iterator[tuple[Part, Scores]]:
        for path in self.feed.paths:
            yield from self.parts(path, [])


@dataclass(frozen=True)
class Table:
    """Thresholds of named prompts."""

    names: pa.Array
    estimate: Estimate
    complete: bool
    """Whether prompts that are not in the table have no threshold of their own (a proxy set)."""

    def put(self, names: pa.Array, own: Estimate) -> Estimate:
        """An estimate of prompts `names`, with those of the table put in their places."""
        if not len(self.names) and not self.complete:
            return own
        at = places_in(names, self.names)
        here = at >= 0
        values, sizes = own.values.copy(), np.where(self.complete, 0, own.sizes)
        values[:, here] = self.estimate.values[:, at[here]]
        sizes[here] = self.estimate.sizes[at[here]]
        return Estimate(values, sizes)


def find(
    feed: Feed, proxy: Sequence[Path], rule: Label, leading: NDArray[np.int64] | None = None
) -> Cutoffs:
    """The thresholds of the training rows, estimated from them or from the shards `proxy`.

    `leading` is the first pass of a percentile of the training rows, if there has been one.
    Raises InputError if no row can be estimated from, or no prompt has several.
    """
    scalar, threads = feed.scalar, feed.threads
    source = Feed(proxy, scalar, threads=threads) if proxy else feed
    if proxy and not any(list(source.each(lambda part: bool((~np.isnan(part.scores)).any())))):
        raise InputError(
            f"{rule.proxy}: has no usable row; name a folder of scored shards in label.proxy"
        )
    if rule.estimator == "oracle":
        assert rule.oracle_beta is not None
        overall = oracle_of_all(source, rule.oracle_beta).values[:, 0]
    else:
        known = None if proxy else leading
        overall = streamed(source, rule, grouped=False, leading=known).values[:, 0]
    if not rule.grouped:
        return Global(feed, overall)
    if rule.scope == PROMPT:
        return ByPrompt(feed, overall, rule, _table(source, rule, from_proxy=bool(proxy)))
    names = names_in(feed.paths, rule.scope, threads)
    feed = Feed(feed.paths, scalar, column=rule.scope, names=names, threads=threads)
    of_proxy = Feed(proxy, scalar, column=rule.scope, names=names, threads=threads)
    own = streamed(of_proxy if proxy else feed, rule, grouped=True)
    return ByColumn(feed, overall, drawn(own, overall, rule.shrinkage), own.sizes)


def _table(source: Feed, rule: Label, *, from_proxy: bool) -> Table:
    """Thresholds of prompts that lie in several shards, or of all prompts of a proxy set."""
    several = 0
    hashes = []
    for names, codes, scores in in_order(
        source.paths, lambda path: _prompts_of(source, path), source.threads
    ):
        hashes.append(hash_strings(names))
        sizes = np.bincount(codes[~np.isnan(scores)], minlength=len(names))
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
        return Table(pa.array([], pa.string()), nothing, complete=False)
    return _gather(source, rule, None if from_proxy else split)


def _gather(source: Feed, rule: Label, split: NDArray[np.uint64] | None) -> Table:
    """Thresholds of the prompts whose hashes are in `split` (None: of all), rows held in memory."""
    rows_names: list[pa.Array] = []
    rows_scores: list[Scores] = []
    for path in source.paths:
        names, codes, scores = _prompts_of(source, path)
        wanted = np.ones(len(names), bool) if split is None else np.isin(hash_strings(names), split)
        kept = wanted[codes]
        rows_names.append(names.take(pa.array(codes[kept])))
        rows_scores.append(scores[kept])
    coded = pa.chunked_array(rows_names).cast(pa.string())
    names, codes = encode(coded)
    own = gathered(np.concatenate(rows_scores), codes, len(names), rule)
    return Table(names, own, complete=split is None)


def _prompts_of(feed: Feed, path: Path) -> tuple[pa.Array, NDArray[np.int64], Scores]:
    """A shard's prompts, per row the number of its prompt, and its scores."""
    parts = list(feed.parts(path, [PROMPT_COLUMN]))
    columns = [chunk for part in parts for chunk in part.table[PROMPT_COLUMN].chunks]  # type: ignore[index]
    names, codes = encode(pa.chunked_array(columns))
    return names.cast(pa.string()), codes, np.concatenate([part.scores for part in parts])


def _repeated(hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The values that occur more than once."""
    hashes = np.sort(hashes)
    return np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
