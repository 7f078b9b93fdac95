"""The score columns of many shards, read as often as a computation needs them.

Small data is held in memory after the first reading; large data is read again for every pass, in
batches, so that memory does not grow with the number of rows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tgo.pipeline.config.label_settings import Label
from tgo.pipeline.errors import InputError
from tgo.pipeline.labelling.scalar import Mask, Scalar, Scores
from tgo.pipeline.storage import shards

S = TypeVar("S")
T = TypeVar("T")
HELD_ROWS = 1 << 27
"""Rows up to which scores and groups are kept between passes: 4 bytes a row, 12 with groups."""
JOINED_ROWS = 1 << 20
"""Rows of a batch that is kept; arithmetic on many small batches would cost more."""
NO_NAME = "(none)"
"""The group of rows whose column is null."""


@dataclass(frozen=True)
class ScoreBatch:
    """Some consecutive rows of a shard; arrays [n]."""

    path: Path
    start: int
    """The first row's place in its shard."""
    scores: Scores
    """NaN where a row is excluded."""
    group: NDArray[np.int64] | None
    """Number of each row's group; None if there is one group."""
    error: Scores | None = None
    """Standard errors of the scores; None unless the reader was asked for them."""
    table: pa.Table | None = None
    """The columns that were asked for besides."""
    missing: dict[str, int] = field(default_factory=dict)
    """Per reward model, usable rows that lack its score."""
    filtered: int = 0
    """Rows that `label.filter` leaves out."""

    @property
    def finite_scores(self) -> Scores:
        """The scores of the rows that have one."""
        return self.scores[~np.isnan(self.scores)]


class ScoreReader:
    """Reads one score per row, and the row's group where there are several, from some shards."""

    def __init__(
        self,
        paths: Sequence[Path],
        scalar: Scalar,
        *,
        column: str | None = None,
        names: Sequence[str] = (),
        error: str | None = None,
        threads: int = 1,
    ) -> None:
        """Read nothing yet.

        Args:
            paths: scored shards.
            scalar: how columns of scores become one score.
            column: what groups rows; None for one group.
            names: the values of `column` in the order of their numbers.
            error: the column of the scores' standard errors; None for none.
            threads: shards read at once.
        """
        self.paths, self.scalar, self.threads = list(paths), scalar, threads
        self.error = error
        self.names = list(names) if column else [""]
        self._column = column
        self._held: list[ScoreBatch] | None = None

    def shard(self, path: Path, extra: Sequence[str] = ()) -> Iterator[ScoreBatch]:
        """A shard's rows in batches, in order, with the columns `extra` in `table`."""
        wanted = dict.fromkeys([*self.scalar.rule.reward, *usable_by(self.scalar.rule), *extra])
        for column in (self._column, self.error):
            if column:
                wanted[column] = None
        start = 0
        for table in shards.batches(path, list(wanted)):
            yield self._batch(path, start, table, table.select(list(extra)) if extra else None)
            start += len(table)

    def map(self, function: Callable[[ScoreBatch], T]) -> Iterator[T]:
        """`function` of every batch, in order; shards in parallel on `threads` threads."""
        if self._held is not None:
            return in_order(self._held, function, self.threads)
        return self._map_and_hold(function)

    def _map_and_hold(self, function: Callable[[ScoreBatch], T]) -> Iterator[T]:
        hold = shards.count_rows(self.paths) <= HELD_ROWS
        held: list[ScoreBatch] = []
        small: list[ScoreBatch] = []

        def work(path: Path) -> list[tuple[ScoreBatch | None, T]]:
            return [(batch if hold else None, function(batch)) for batch in self.shard(path)]

        for found in in_order(self.paths, work, self.threads):
            for batch, result in found:
                if batch:
                    small.append(batch)
                    if sum(len(each.scores) for each in small) >= JOINED_ROWS:
                        held.append(_joined(small))
                        small = []
                yield result
        if small:
            held.append(_joined(small))
        if held:
            self._held = held

    def _batch(self, path: Path, start: int, table: pa.Table, extra: pa.Table | None) -> ScoreBatch:
        usable, filtered = usable_rows(table, self.scalar.rule)
        columns = {name: numbers(table[name]) for name in self.scalar.rule.reward}
        missing = self.scalar.missing(columns, usable)
        if self.scalar.rule.missing == "refuse" and any(missing.values()):
            raise _refusal(path, start, columns, usable)
        group = None
        if self._column:
            values, index = encode(table[self._column])
            known = pa.array(self.names, pa.string())
            group = index_in(values, known)[index]
            usable &= group >= 0  # a proxy's group that the training rows lack
            group = np.maximum(group, 0)
        scores = self.scalar.score(columns, usable)
        error = numbers(table[self.error]) if self.error else None
        if error is not None and np.isnan(error[~np.isnan(scores)]).any():
            raise InputError(
                f"{path}: some ratings have no {self.error} (it takes images with two ratings); "
                "set label.error to a number"
            )
        return ScoreBatch(path, start, scores, group, error, extra, missing, filtered)


def in_order(items: Iterable[S], function: Callable[[S], T], threads: int) -> Iterator[T]:
    """`function` of every item on `threads` threads; results in order, few held at a time."""
    if threads == 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[T]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def usable_by(rule: Label) -> list[str]:
    """The columns that `usable_rows` looks at."""
    return ["status", *(rule.filter or ())]


def usable_rows(table: pa.Table, rule: Label) -> tuple[Mask, int]:
    """Rows that may be labelled, [n], and how many more `label.filter` leaves out.

    Their image was made and scored, and every score that the filter names lies within its limits
    (a score that is missing does not).
    """
    ok = rows_ok(table)
    kept = ok.copy()
    for name, limits in (rule.filter or {}).items():
        values = numbers(table[name])
        kept &= np.isfinite(values)
        if limits.min is not None:
            kept &= values >= limits.min
        if limits.max is not None:
            kept &= values <= limits.max
    return kept, int(np.count_nonzero(ok & ~kept))


def rows_ok(table: pa.Table) -> Mask:
    """Which rows' column `status` is ok, [n]."""
    return np.concatenate(
        [_is_ok(chunk) for chunk in table["status"].chunks] or [np.zeros(0, bool)]
    )


def _is_ok(status: pa.Array) -> Mask:
    if not pa.types.is_dictionary(status.type):
        status = status.dictionary_encode()
    indices = _filled(status.indices, -1)
    ok = np.zeros(len(indices), bool)
    for place, value in enumerate(status.dictionary.to_pylist()):
        if value == "ok":
            ok |= indices == place
    return ok


def numbers(column: pa.ChunkedArray) -> Scores:
    """A column of scores as float32 [n]; null becomes NaN."""
    if column.type != pa.float32():
        return column.to_numpy().astype(np.float32, copy=False)
    parts = [_filled(chunk, np.nan) for chunk in column.chunks]
    return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, np.float32), *parts])


def encode(column: pa.ChunkedArray) -> tuple[pa.Array, NDArray[np.int64]]:
    """A column's distinct values as strings [k], and per row [n] the index of its value."""
    if not pa.types.is_dictionary(column.type):
        column = column.cast(pa.string()).dictionary_encode()
    coded = column.unify_dictionaries().combine_chunks()
    if isinstance(coded, pa.ChunkedArray):
        coded = pa.concat_arrays(coded.chunks) if coded.num_chunks else coded.type.wrap_array([])
    values = coded.dictionary
    if coded.null_count:
        values = pa.concat_arrays([values, pa.array([NO_NAME], values.type)])
    return values, _filled(coded.indices, len(values) - 1).astype(np.int64)


def _filled(column: pa.Array, missing: float) -> NDArray[Any]:
    """Numbers [n] with `missing` where they are null; `to_numpy` would load pandas, for 0.2 s."""
    validity, held = column.buffers()
    if held is None:
        return np.full(len(column), missing, column.type.to_pandas_dtype())
    rows = slice(column.offset, column.offset + len(column))
    values = np.frombuffer(held, column.type.to_pandas_dtype())[rows]
    if not column.null_count:
        return values
    bits = np.frombuffer(validity, np.uint8)
    valid = np.unpackbits(bits, count=rows.stop, bitorder="little")[rows]
    return np.where(valid.view(bool), values, values.dtype.type(missing))


def index_in(values: pa.Array, known: pa.Array) -> NDArray[np.int64]:
    """The index of each value [n] among the known ones; int64 [n], -1 for one that is not known."""
    import pyarrow.compute as pc  # late: a preview of one threshold does without

    return _filled(pc.index_in(values, value_set=known), -1).astype(np.int64)


def group_names(paths: Sequence[Path], column: str, threads: int) -> list[str]:
    """All values of a column as strings, sorted; InputError if it cannot group rows."""

    def found(path: Path) -> set[str]:
        return {
            name
            for table in shards.batches(path, [column])
            for name in _groupable(path, column, table).to_pylist()
        }

    return sorted(set().union(*in_order(paths, found, threads)))


def _groupable(path: Path, column: str, table: pa.Table) -> pa.Array:
    kind = table.schema.field(column).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        raise InputError(
            f"{path}: label.scope = {column!r} holds {kind}, which does not name groups; name a "
            "column of strings or whole numbers"
        )
    return encode(table[column])[0]


def _joined(batches: list[ScoreBatch]) -> ScoreBatch:
    """One batch of several: for arithmetic on many small shards as on few large ones."""
    if len(batches) == 1:
        return batches[0]
    missing: dict[str, int] = {}
    for batch in batches:
        for name, count in batch.missing.items():
            missing[name] = missing.get(name, 0) + count
    groups = [batch.group for batch in batches if batch.group is not None]
    errors = [batch.error for batch in batches if batch.error is not None]
    return ScoreBatch(
        batches[0].path,
        0,
        np.concatenate([batch.scores for batch in batches]),
        np.concatenate(groups) if groups else None,
        np.concatenate(errors) if errors else None,
        missing=missing,
        filtered=sum(batch.filtered for batch in batches),
    )


def _refusal(path: Path, start: int, columns: dict[str, Scores], usable: Mask) -> InputError:
    """Names the first row without a score."""
    rows = {
        name: int((usable & ~np.isfinite(scores)).argmax())
        for name, scores in columns.items()
        if (usable & ~np.isfinite(scores)).any()
    }
    name = min(rows, key=lambda key: rows[key])
    row_id = shards.read_shard(path, ["id"])["id"][start + rows[name]]
    return InputError(
        f"{path}: {row_id} has the {name} score {columns[name][rows[name]]}; remove that shard and "
        "run `tgo score` again, which makes it anew, or set label.missing to exclude"
    )
