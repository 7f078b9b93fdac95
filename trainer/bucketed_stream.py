"""Batches of images of several sizes (aspect-ratio buckets), one size in each batch.

Each bucket is a stream that is shuffled by itself; which of them gives the next batch is a
permutation that follows from (seed, epoch). So two integers still tell where a run is.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

import numpy as np

from tgo.trainer.shuffle import Position
from tgo.trainer.stream import START

if TYPE_CHECKING:
    from tgo.trainer.balanced_stream import BalancedStream
    from tgo.trainer.stream import Batch, Stream


class BucketedStream:
    """Endless batches of one bucket each; an epoch is one epoch of every bucket.

    Positions count batches in place of rows.
    """

    def __init__(self, streams: Sequence[Stream | BalancedStream], *, seed: int) -> None:
        self._streams, self._seed = streams, seed
        self.batches_per_epoch = sum(stream.batches_per_epoch for stream in streams)

    def batches(self, position: Position = START) -> Generator[Batch]:
        """Batches from ``position`` on, through all epochs; close it to end its threads."""
        epoch, done = position
        order = self._order(epoch)
        taken = np.bincount(order[:done], minlength=len(self._streams)).tolist()
        with ExitStack() as stack:
            running = [
                stack.enter_context(closing(stream.batches(stream.position(epoch, count))))
                for stream, count in zip(self._streams, taken, strict=True)
            ]
            while True:
                for place in range(done, len(order)):
                    batch = next(running[order[place]])
                    yield batch._replace(position=self.position(epoch, place + 1))
                epoch, done = epoch + 1, 0
                order = self._order(epoch)

    def position(self, epoch: int, batches: int) -> Position:
        """Where the stream is after so many batches of an epoch."""
        last = batches == self.batches_per_epoch
        return Position(epoch + 1, 0) if last else Position(epoch, batches)

    def _order(self, epoch: int) -> np.ndarray:
        """Which bucket gives each batch of an epoch, int64 ``[batches]``."""
        buckets = np.arange(len(self._streams))
        counts = [stream.batches_per_epoch for stream in self._streams]
        # a key that no window and no permutation of row groups has
        sequence = np.random.SeedSequence(self._seed, spawn_key=(epoch, 0, 0))
        return np.random.default_rng(sequence).permutation(np.repeat(buckets, counts))
