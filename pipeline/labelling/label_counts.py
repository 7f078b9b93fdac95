"""What is counted while labels are written; the shards' tallies add up."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from tgo.pipeline.labelling.labeller import Marked
from tgo.pipeline.labelling.score_reader import encode
from tgo.pipeline.labelling.thresholds import Scores
from tgo.pipeline.labelling.weights import EXCLUDED


@dataclass(frozen=True)
class Ends:
    """Two thresholds; what a row would be labelled by either, in the order of its column."""

    low: Scores
    """[groups], or [1] for all."""
    high: Scores
    names: tuple[str, ...] = ()
    """The groups, sorted; empty if there is one threshold."""


@dataclass
class Tally:
    """Counts of rows that have a score."""

    n: int = 0
    positives: int = 0
    inside: int = 0
    """Rows whose label another threshold inside the interval would flip."""
    moved: int = 0
    """Rows that the earlier threshold labels otherwise than the global one."""
    group_rows: Counter[str] = field(default_factory=Counter)
    group_positives: Counter[str] = field(default_factory=Counter)

    def merge(self, other: Tally) -> None:
        """Take in another shard's."""
        for name in ("n", "positives", "inside", "moved"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.group_rows += other.group_rows
        self.group_positives += other.group_positives


def count(marked: Marked, column: str, interval: Ends, drift: Ends | None, ties: str) -> Tally:
    """Tally some rows, by the values of `column`, which `marked.part.table` holds."""
    assert marked.part.table is not None
    values, codes = encode(marked.part.table[column])
    names = values.to_pylist()
    both = 3 * codes + (marked.label - EXCLUDED)  # each group's rows left out, negative, positive
    found = np.bincount(both, minlength=3 * len(names)).reshape(-1, 3)
    rows, positives = found[:, 1] + found[:, 2], found[:, 2]
    places = np.searchsorted(interval.names, names)[codes] if interval.names else 0
    scores = marked.part.scores
    return Tally(
        int(rows.sum()),
        int(positives.sum()),
        _between(scores, interval.low[places], interval.high[places], ties),
        _between(scores, drift.low[0], drift.high[0], ties) if drift else 0,
        Counter(dict(zip(names, rows.tolist(), strict=True))),
        Counter(dict(zip(names, positives.tolist(), strict=True))),
    )


def _between(scores: Scores, low: Scores, high: Scores, ties: str) -> int:
    """Rows that the lower threshold makes positive and the higher one negative."""
    if ties == "positive":
        return int(np.count_nonzero((scores >= low) & (scores < high)))
    return int(np.count_nonzero((scores > low) & (scores <= high)))
