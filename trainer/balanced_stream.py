"""Batches with a set share of positives, each class in an order of its own.

Each class is a stream that is shuffled and begins again by itself, so the smaller one is seen
more often. Both orders follow from the number of batches taken, so one position tells both.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from typing import TYPE_CHECKING

from tgo.pipeline.errors import InputError
from tgo.trainer.shuffle import Position
from tgo.trainer.stream import COLUMNS, START, WINDOW, Stream, joined

if TYPE_CHECKING:
    from tgo.trainer.dataset import LabelledRows
    from tgo.trainer.stream import Batch


class BalancedStream:
    """Endless batches, in each of them ``positives`` of the rows positive, which come first.

    An epoch is one of the class that takes longer to be seen. Other arguments as of `Stream`.

    Raises InputError where a class is missing, or too small for its part of one batch.
    """

    def __init__(
        self,
        rows: LabelledRows,
        *,
        positives: float,
        seed: int,
        batch_size: int,
        workers: int = 0,
        pin: bool = False,
        window: int = WINDOW,
        share: range | None = None,
    ) -> None:
        first = round(positives * batch_size)
        if not 0 < first < batch_size:
            raise InputError(
                f"train.positives = {positives} leaves a class out of batches of {batch_size}; "
                "choose a share nearer to 0.5, or larger batches"
            )
        share = range(batch_size) if share is None else share
        self._start, self._pin = share.start, pin
        self._streams, self._sizes = [], [first, batch_size - first]
        for begin, size, positive in ((0, first, True), (first, batch_size - first, False)):
            ours = range(*(min(max(end - begin, 0), size) for end in (share.start, share.stop)))
            of_class = rows.of_class(positive)
            if sum(of_class.sizes) < size:
                kind = "positive" if positive else "negative"
                raise InputError(
                    f"train.positives: a batch takes {size} {kind} rows and there are "
                    f"{sum(of_class.sizes)}; lower train.batch_size, or set positives to null"
                )
            self._streams.append(
                Stream(
                    of_class,
                    seed=seed,
                    batch_size=size,
                    workers=workers,
                    pin=pin,
                    window=window,
                    share=ours,
                )
            )
        self._batches = [stream.batches_per_epoch for stream in self._streams]
        self.batches_per_epoch = max(self._batches)
        self._clock = self._batches.index(self.batches_per_epoch)

    def position(self, epoch: int, batches: int) -> Position:
        """Where the stream is after so many batches of an epoch."""
        return self._streams[self._clock].position(epoch, batches)

    def batches(self, position: Position = START) -> Generator[Batch]:
        """Batches from ``position`` on, through all epochs; close it to end its threads."""
        done = position.epoch * self._batches[self._clock]
        done += position.cursor // self._sizes[self._clock]
        good, bad = (
            stream.batches(stream.position(*divmod(done, count)))
            for stream, count in zip(self._streams, self._batches, strict=True)
        )
        with closing(good), closing(bad):
            while True:
                yield self._join(next(good), next(bad))

    def _join(self, good: Batch, bad: Batch) -> Batch:
        columns = {
            name: joined([getattr(good, name), getattr(bad, name)], self._pin) for name in COLUMNS
        }
        conditions = {
            name: joined([value, bad.conditions[name]], self._pin)
            for name, value in good.conditions.items()
        }
        position = (good, bad)[self._clock].position
        return good._replace(**columns, conditions=conditions, position=position, start=self._start)
