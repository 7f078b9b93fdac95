"""Batches of labelled rows in an order that is a pure function of (seed, epoch).

The work of a batch is one read of a row group now and then and a slice of a buffer: there is no
loop over rows. Threads may read ahead; which rows come, and when, does not depend on them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tgo.pipeline.errors import InputError
from tgo.trainer.shuffle import Position, Shuffle

if TYPE_CHECKING:
    from tgo.pipeline.generators.base import Conditions
    from tgo.trainer.dataset import LabelledRows
    from tgo.trainer.shuffle import Window

WINDOW = 64
"""Row groups shuffled together, and held in memory (twice when reading ahead)."""
AHEAD = 2
"""Batches put together before they are asked for, where there are workers."""
START = Position(epoch=0, cursor=0)


class Batch(NamedTuple):
    """One batch of B rows and the position to continue from after it."""

    latents: Tensor
    """``[B, *latent_shape]`` in the type they are stored in."""
    conditions: Conditions
    """What the prompts give the network ``[B, ...]``, as stored."""
    target: Tensor
    """Target in [0, 1], float32 ``[B]``; pairs lie side by side, winner (1) before loser (0)."""
    weight: Tensor
    """float32 ``[B]``."""
    per_row_value: Tensor
    """The objective's own number for each row, float32 ``[B]``; 0 where it wants none."""
    rows: Tensor
    """Number of each row among the usable ones, in shard order, int64 ``[B]``."""
    position: Position
    """Where the stream goes on after this batch."""
    start: int = 0
    """Place of the first row in the global batch, of which this may be one process's share."""

    def part(self, first: int, last: int) -> Batch:
        """The rows from place ``first`` to before ``last`` as a batch."""
        found = self._change(lambda tensor: tensor[first:last])
        return found._replace(start=self.start + first)

    def to(self, device: torch.device) -> Batch:
        """The batch on ``device``; from pinned memory the copy does not wait."""
        return self._change(lambda tensor: tensor.to(device, non_blocking=True))

    def _change(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with every tensor changed."""
        changed: dict[str, Any] = {
            name: change(part) for name, part in self._asdict().items() if isinstance(part, Tensor)
        }
        conditions = {name: change(part) for name, part in self.conditions.items()}
        return self._replace(conditions=conditions, **changed)


COLUMNS = tuple(name for name in Batch._fields if name not in ("conditions", "position", "start"))
"""The fields of a batch that hold one value a row."""


class _Buffer:
    """One window's rows in the order in which they are used."""

    def __init__(self, rows: LabelledRows, window: Window, pin: bool) -> None:
        size = len(window.slots) * rows.unit
        latents = torch.from_numpy(np.empty(0, rows.latent_dtype)).dtype
        shapes = {"latents": rows.latent_shape}
        types = {"latents": latents, "rows": torch.int64}
        self.columns = {
            name: torch.empty(
                (size, *shapes.get(name, ())), dtype=types.get(name, torch.float32), pin_memory=pin
            )
            for name in COLUMNS
        }
        self.table = np.empty(size, np.int64)
        self.prompt = np.empty(size, np.int64)
        self._source = rows

    def fill(self, number: int, slots: np.ndarray) -> None:
        """Put the units of row group ``number`` into their places."""
        group, unit = self._source.groups[number], self._source.unit
        if unit > 1:
            slots = (slots[:, None] * unit + np.arange(unit)).ravel()
        for name, column in self.columns.items():
            values = self._source.latents(number) if name == "latents" else getattr(group, name)
            column.numpy()[slots] = values
        self.table[slots] = self._source.tables_of(number)
        self.prompt[slots] = group.prompt


class Stream:
    """Endless batches of labelled rows, ``batch_size`` of them each (a pair counts as two).

    ``workers`` threads read row groups and put batches together ahead of their use; with 0
    everything happens when a batch is asked for. ``pin`` puts batches into page-locked memory
    for copies to a GPU. ``window`` is how many row groups are shuffled together. ``share`` are the
    places in each batch that are wanted, of one process among several; all if None.
    """

    def __init__(
        self,
        rows: LabelledRows,
        *,
        seed: int,
        batch_size: int,
        workers: int = 0,
        pin: bool = False,
        window: int = WINDOW,
        share: range | None = None,
    ) -> None:
        self._units = batch_size // rows.unit
        share = range(batch_size) if share is None else share
        self._share = range(share.start // rows.unit, share.stop // rows.unit)
        if sum(rows.sizes) < self._units and rows.unit > 1:
            raise InputError(
                f"train.batch_size: {batch_size} images are more than the {sum(rows.sizes)} pairs "
                "that the scores give; lower it or make more images a prompt"
            )
        self.shuffle = Shuffle(rows.sizes, seed=seed, batch_size=self._units, window=window)
        self.batches_per_epoch = self.shuffle.rows_per_epoch // self._units
        self._rows = rows
        self._workers = workers
        self._pin = pin

    def position(self, epoch: int, batches: int) -> Position:
        """Where the stream is after so many batches of an epoch."""
        last = batches == self.batches_per_epoch
        return Position(epoch + 1, 0) if last else Position(epoch, batches * self._units)

    def batches(self, position: Position = START) -> Generator[Batch]:
        """Batches from ``position`` on, through all epochs; close it to end its threads."""
        batches = self._assemble(position)
        return _ahead(batches, AHEAD) if self._workers else batches

    def _assemble(self, position: Position) -> Generator[Batch]:
        """Cut windows into batches; a batch may begin in one window and end in the next."""
        parts: list[tuple[_Buffer, slice]] = []
        unit = self._rows.unit
        missing = self._units
        for window, buffer in self._filled(position):
            at = position.cursor - window.start
            end = min(len(window.slots), self.shuffle.rows_per_epoch - window.start)
            while at < end:
                take = min(missing, end - at)
                # of this process's places those that lie here, which may be none
                before = at - (self._units - missing)
                first = min(max(at, before + self._share.start), at + take)
                last = max(min(at + take, before + self._share.stop), first)
                parts.append((buffer, slice(first * unit, last * unit)))
                at, missing = at + take, missing - take
                position = self._position(window, at)
                if missing == 0:
                    yield self._join(parts, position)
                    parts, missing = [], self._units

    def _position(self, window: Window, used: int) -> Position:
        cursor = window.start + used
        if cursor == self.shuffle.rows_per_epoch:
            return Position(window.epoch + 1, 0)
        return Position(window.epoch, cursor)

    def _join(self, parts: list[tuple[_Buffer, slice]], position: Position) -> Batch:
        def column(name: str) -> Tensor:
            pieces = [buffer.columns[name][where] for buffer, where in parts]
            return pieces[0] if len(pieces) == 1 else joined(pieces, self._pin)

        table = np.concatenate([buffer.table[where] for buffer, where in parts])
        prompt = np.concatenate([buffer.prompt[where] for buffer, where in parts])
        return Batch(
            conditions=self._rows.conditions(table, prompt, pin=self._pin),
            position=position,
            start=self._share.start * self._rows.unit,
            **{name: column(name) for name in COLUMNS},
        )

    def _filled(self, position: Position) -> Iterator[tuple[Window, _Buffer]]:
        """Windows with their rows; with workers the next one is read while one is in use."""
        pool = ThreadPoolExecutor(max(self._workers, 1), "tgo-read")
        pending: deque[tuple[Window, _Buffer, list]] = deque()
        try:
            for coming in self.shuffle.windows(position):
                reads, buffer = self._reads(coming)
                pending.append((coming, buffer, [pool.submit(read) for read in reads]))
                if len(pending) > (1 if self._workers else 0):
                    window, buffer, running = pending.popleft()
                    for read in running:
                        read.result()
                    yield window, buffer
        finally:
            pool.shutdown(cancel_futures=True)

    def _reads(self, window: Window) -> tuple[list[Callable[[], None]], _Buffer]:
        """One read for each row group of a window, in whatever order, and where they end up."""
        buffer = _Buffer(self._rows, window, self._pin)
        sizes = [self._rows.sizes[number] for number in window.groups]
        slots = np.split(window.slots, np.cumsum(sizes)[:-1])
        fills = zip(window.groups, slots, strict=True)
        return [partial(buffer.fill, int(number), places) for number, places in fills], buffer


def joined(pieces: Sequence[Tensor], pin: bool) -> Tensor:
    """Tensors one after the other; page-locked, where the copy to a device must not wait."""
    shape = (sum(map(len, pieces)), *pieces[0].shape[1:])
    return torch.cat(list(pieces), out=torch.empty(shape, dtype=pieces[0].dtype, pin_memory=pin))


def _ahead(batches: Generator[Batch], depth: int) -> Generator[Batch]:
    """The same batches, ``depth`` of them made by a thread before they are asked for."""
    pool = ThreadPoolExecutor(1, "tgo-batch")
    try:
        pending = deque(pool.submit(next, batches) for _ in range(depth))
        while True:
            pending.append(pool.submit(next, batches))
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        batches.close()
