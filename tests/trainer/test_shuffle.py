from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgo.pipeline.errors import InputError
from tgo.trainer.shuffle import Position, Shuffle

SIZES = st.lists(st.integers(0, 7), min_size=1, max_size=12).filter(lambda sizes: sum(sizes) > 0)


def epoch_of(order: Shuffle, position: Position) -> list[tuple[int, int]]:
    """(row group, row) in the order of use, from a position to its epoch's end, tail included."""
    rows: list[tuple[int, int]] = []
    for window in order.windows(position):
        if window.epoch != position.epoch:
            return rows
        sizes = order._sizes[window.groups]
        laid_out = [
            (int(g), r) for g, n in zip(window.groups, sizes, strict=True) for r in range(n)
        ]
        used = [laid_out[i] for i in np.argsort(window.slots)]
        rows += used[max(position.cursor - window.start, 0) :]
    raise AssertionError("an order never ends")


@given(SIZES, st.integers(0, 2**63 - 1), st.integers(1, 5), st.integers(0, 3))
def test_an_epoch_has_every_row_once(sizes: list[int], seed: int, window: int, epoch: int) -> None:
    order = Shuffle(sizes, seed=seed, batch_size=1, window=window)
    every = [(group, row) for group, size in enumerate(sizes) for row in range(size)]
    assert sorted(epoch_of(order, Position(epoch, 0))) == every


@given(SIZES, st.integers(1, 5), st.integers(1, 6), st.data())
def test_any_place_can_be_entered(
    sizes: list[int], window: int, batch: int, data: st.DataObject
) -> None:
    batch = min(batch, sum(sizes))
    order = Shuffle(sizes, seed=1, batch_size=batch, window=window)
    assert order.rows_per_epoch == sum(sizes) // batch * batch
    cursor = data.draw(st.integers(0, order.rows_per_epoch - 1))
    whole = epoch_of(order, Position(2, 0))[: order.rows_per_epoch]
    assert epoch_of(order, Position(2, cursor))[: order.rows_per_epoch - cursor] == whole[cursor:]


def test_windows_go_on_into_the_next_epoch() -> None:
    order = Shuffle([3, 0, 3, 3, 3], seed=0, batch_size=5, window=2)
    places = [(w.epoch, w.start) for w in itertools.islice(order.windows(Position(4, 7)), 4)]
    assert places == [(4, 6), (5, 0), (5, 6), (6, 0)]


def test_windows_beyond_the_last_whole_batch_are_not_read() -> None:
    order = Shuffle([4, 4, 4], seed=0, batch_size=8, window=1)
    starts = [window.start for window in itertools.islice(order.windows(Position(0, 0)), 4)]
    assert starts == [0, 4, 0, 4]


def test_epochs_and_seeds_differ_and_repeat() -> None:
    def first(seed: int, epoch: int) -> list[tuple[int, int]]:
        return epoch_of(Shuffle([20] * 5, seed=seed, batch_size=1, window=3), Position(epoch, 0))

    assert first(0, 0) == first(0, 0)
    assert first(0, 0) != first(0, 1)
    assert first(0, 0) != first(1, 0)
    assert first(0, 1) != first(1, 0)


def test_rows_of_a_window_are_mixed() -> None:
    rows = epoch_of(Shuffle([50] * 4, seed=0, batch_size=1, window=4), Position(0, 0))
    changes = sum(a[0] != b[0] for a, b in itertools.pairwise(rows))
    assert changes > 100  # row after row of one row group would give 3


def test_too_few_rows_for_a_batch_are_an_input_error() -> None:
    with pytest.raises(InputError, match=r"train\.batch_size: 9 is more than the 8 usable"):
        Shuffle([8, 0], seed=0, batch_size=9, window=4)
