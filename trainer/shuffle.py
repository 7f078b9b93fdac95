"""The order of the training rows: a pure function of (seed, epoch), with a state of two integers.

An epoch permutes the row groups, cuts that permutation into windows of a few row groups, and
permutes the rows inside each window. So a shuffled read is a sequence of row-group reads, any
place in it is reached by reading one window, and nothing depends on who reads or how far ahead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from tgo.pipeline.errors import InputError


class Position(NamedTuple):
    """The stream's whole state: which epoch, and how many of its rows are used."""

    epoch: int = 0
    cursor: int = 0


class Window(NamedTuple):
    """Some row groups whose rows are shuffled among themselves."""

    epoch: int
    start: int
    """How many rows of the epoch come before this window."""
    groups: np.ndarray
    """Row group numbers, int64 ``[G]``, in the order of the epoch's permutation."""
    slots: np.ndarray
    """int64 ``[rows]``: row i of the row groups laid end to end appears as row ``slots[i]``."""


class Shuffle:
    """Which row comes when.

    ``group_sizes[g]`` is the number of usable rows of row group g; ``window`` is how many row
    groups are shuffled together (more mixes better and holds more in memory). The tail of an
    epoch that does not fill a batch is dropped, another one each epoch.
    """

    def __init__(
        self, group_sizes: Sequence[int], *, seed: int, batch_size: int, window: int
    ) -> None:
        self._sizes = np.asarray(group_sizes, dtype=np.int64)
        self._seed = seed
        self._window = window
        rows = int(self._sizes.sum())
        if rows < batch_size:
            raise InputError(
                f"train.batch_size: {batch_size} is more than the {rows} usable labelled rows; "
                "lower it or label more rows"
            )
        self.rows_per_epoch = rows - rows % batch_size

    def windows(self, position: Position) -> Iterator[Window]:
        """The windows from the one that holds ``position`` on, through all epochs, for ever."""
        epoch, cursor = position
        while True:
            groups, starts = self._epoch(epoch)
            first = int(np.searchsorted(starts, cursor, side="right")) - 1
            for number in range(first, len(starts)):
                start = int(starts[number])
                if start >= self.rows_per_epoch:
                    break
                members = groups[number * self._window : (number + 1) * self._window]
                slots = self._random(epoch, number).permutation(int(self._sizes[members].sum()))
                yield Window(epoch, start, members, slots)
            epoch, cursor = epoch + 1, 0

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The epoch's permutation of the row groups that have rows, and each window's start."""
        groups = self._random(epoch).permutation(np.flatnonzero(self._sizes))
        ends = np.cumsum(self._sizes[groups])
        starts = np.concatenate([[0], ends[self._window - 1 : -1 : self._window]])
        return groups, starts

    def _random(self, *key: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=key))
