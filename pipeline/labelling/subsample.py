"""A fixed random subset of whole prompts, by smallest hash: the rows that diagnosis looks at.

It does not depend on the order of the rows, and subsets of shards can be merged. Small data is
taken whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tgo.pipeline.labelling.labeller import Labeller
from tgo.pipeline.labelling.scalar import Scores
from tgo.pipeline.labelling.score_reader import encode, in_order, numbers
from tgo.pipeline.labelling.thresholds import PROMPT_COLUMN
from tgo.pipeline.storage.hashing import hash_strings

PROMPTS = 1 << 14
ROWS = 1 << 17


@dataclass(frozen=True)
class Sample:
    """Rows with a score, of whole prompts, in an order of their own; arrays [n]."""

    prompt: NDArray[np.uint64]
    """The prompt's hash."""
    scores: Scores
    threshold: Scores
    """Each row's own."""
    weight: NDArray[np.float32]
    column: NDArray[np.object_]
    """The value of the column by which class balance is counted."""
    rewards: dict[str, Scores]
    """Every reward model's scores; NaN where missing."""

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def groups(self) -> NDArray[np.int64]:
        """The prompts numbered from 0."""
        numbered: NDArray[np.int64] = np.unique(self.prompt, return_inverse=True)[1]
        return numbered

    @property
    def prompts(self) -> int:
        """How many prompts there are."""
        return len(np.unique(self.prompt))

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Sample:
        """Some of the rows."""
        return replace(
            self,
            prompt=self.prompt[rows],
            scores=self.scores[rows],
            threshold=self.threshold[rows],
            weight=self.weight[rows],
            column=self.column[rows],
            rewards={name: scores[rows] for name, scores in self.rewards.items()},
        )


def draw(labeller: Labeller, column: str, threads: int) -> Sample:
    """At most `PROMPTS` prompts with at most `ROWS` rows (but at least one prompt)."""
    ceiling = np.uint64(2**64 - 1)  # hashes above cannot be among the smallest any more
    held: Sample | None = None

    def look(path: Path) -> Sample:
        return _of_shard(labeller, path, column, ceiling)

    for found in in_order(labeller.paths, look, threads):
        held = found if held is None else _join([held, found])
        if len(held) > 4 * ROWS:
            held, ceiling = _smallest(held)
    assert held is not None
    return _ordered(_smallest(held)[0])


def _of_shard(labeller: Labeller, path: Path, column: str, ceiling: np.uint64) -> Sample:
    rewards = list(labeller.models)
    parts = []
    for rows in labeller.shard(path, list(dict.fromkeys([PROMPT_COLUMN, column, *rewards]))):
        table = rows.batch.table
        assert table is not None
        names, prompt = encode(table[PROMPT_COLUMN])
        hashes = hash_strings(names.cast(pa.string()))
        kept = np.flatnonzero(rows.usable & (hashes <= ceiling)[prompt])
        values, group = encode(table[column])
        parts.append(
            Sample(
                hashes[prompt[kept]],
                rows.batch.scores[kept],
                rows.threshold[kept],
                rows.weight[kept],
                np.array(values.to_pylist(), object)[group[kept]],
                {name: numbers(table[name])[kept] for name in rewards},
            )
        )
    return _join(parts)


def _join(parts: Sequence[Sample]) -> Sample:
    columns = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("prompt", "scores", "threshold", "weight", "column")
    }
    rewards = {
        name: np.concatenate([part.rewards[name] for part in parts]) for name in parts[0].rewards
    }
    return Sample(**columns, rewards=rewards)


def _smallest(rows: Sample) -> tuple[Sample, np.uint64]:
    """The prompts of smallest hash within the bounds, and the greatest hash among them."""
    hashes, sizes = np.unique(rows.prompt, return_counts=True)
    fitting = int(np.searchsorted(np.cumsum(sizes), ROWS, "right"))
    kept = max(min(fitting, PROMPTS), 1)
    if kept >= len(hashes):
        return rows, np.uint64(2**64 - 1)
    ceiling = hashes[kept - 1]
    return rows.take(rows.prompt <= ceiling), ceiling


def _ordered(rows: Sample) -> Sample:
    """By prompt, then score, then the reward models' scores: rows that are still tied are equal."""
    keys: tuple[np.ndarray, ...] = (
        *rows.rewards.values(),
        rows.weight,
        rows.threshold,
        rows.scores,
        rows.prompt,
    )
    return rows.take(np.lexsort(keys))
