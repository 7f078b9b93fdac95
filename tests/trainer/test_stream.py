from __future__ import annotations

import itertools
import threading
from contextlib import closing

import numpy as np
import pytest
import torch

from tests.trainer.miniature import SHAPE, TOKENS, WIDTH, Place
from tgo.pipeline.errors import InputError
from tgo.trainer.dataset import LabelledRows
from tgo.trainer.shuffle import Position
from tgo.trainer.stream import START, Batch, Stream

SIZE = 11


def make_stream(place: Place, *, workers: int = 0, window: int = 2, seed: int = 0) -> Stream:
    rows = LabelledRows(**place.inputs)
    return Stream(rows, seed=seed, batch_size=SIZE, workers=workers, window=window)


def take(stream: Stream, count: int, position: Position = START) -> list[Batch]:
    with closing(stream.batches(position)) as batches:
        return list(itertools.islice(batches, count))


def tensors(batch: Batch) -> list[torch.Tensor]:
    return [*batch.conditions.values(), *(part for part in batch if isinstance(part, torch.Tensor))]


def same(left: list[Batch], right: list[Batch]) -> bool:
    return len(left) == len(right) and all(
        a.position == b.position
        and all(torch.equal(x, y) for x, y in zip(tensors(a), tensors(b), strict=True))
        for a, b in zip(left, right, strict=True)
    )


def test_an_epoch_has_each_row_at_most_once_and_drops_only_the_tail(place: Place) -> None:
    stream = make_stream(place)
    usable = sum(LabelledRows(**place.inputs).sizes)
    per_epoch = usable // SIZE
    assert per_epoch * SIZE == stream.shuffle.rows_per_epoch < usable
    batches = take(stream, 3 * per_epoch)
    for epoch in range(3):
        part = batches[epoch * per_epoch : (epoch + 1) * per_epoch]
        seen = torch.cat([batch.rows for batch in part])
        assert len(seen.unique()) == per_epoch * SIZE
        assert part[-1].position == Position(epoch + 1, 0)
    first, second = (
        torch.cat([b.rows for b in batches[i : i + per_epoch]]) for i in (0, per_epoch)
    )
    assert not torch.equal(first, second)


def test_a_batch_holds_what_belongs_together(place: Place) -> None:
    rows = LabelledRows(**place.inputs)
    groups = [group for group in rows.groups if len(group.places)]
    label, weight, prompt, shard = (
        np.concatenate(parts)
        for parts in (
            [g.target for g in groups],
            [g.weight for g in groups],
            [g.prompt for g in groups],
            [np.full(len(g.places), g.shard) for g in groups],
        )
    )
    for batch in take(make_stream(place), 15):
        assert batch.latents.shape == (SIZE, *SHAPE)
        assert batch.latents.dtype == torch.float16
        assert batch.conditions["embeddings"].shape == (SIZE, TOKENS, WIDTH)
        at = batch.rows.numpy()
        np.testing.assert_array_equal(batch.target.numpy(), label[at])
        np.testing.assert_array_equal(batch.weight.numpy(), weight[at])
        np.testing.assert_array_equal(batch.latents.float().mean((1, 2, 3)) > 0, batch.target == 1)
        told = (batch.conditions["embeddings"][:, 0, 0].float() * 256).numpy()
        np.testing.assert_array_equal(told, 100 * shard[at] + prompt[at])


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("window", [1, 2, 64])
def test_workers_change_nothing(place: Place, workers: int, window: int) -> None:
    alone = take(make_stream(place, window=window), 25)
    assert same(alone, take(make_stream(place, window=window, workers=workers), 25))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_continues_from_any_two_integers(place: Place, workers: int) -> None:
    whole = take(make_stream(place), 24)
    for done in range(24):
        position = Position(*whole[done - 1].position) if done else START
        rest = take(make_stream(place, workers=workers), 24 - done, position)
        assert same(rest, whole[done:]), f"after batch {done}"


def test_seeds_differ(place: Place) -> None:
    assert not same(take(make_stream(place), 3), take(make_stream(place, seed=1), 3))


def test_closing_ends_the_threads(place: Place) -> None:
    before = threading.active_count()
    take(make_stream(place, workers=3), 5)
    assert threading.active_count() == before


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_shard_is_named_whoever_reads_it(place: Place, workers: int) -> None:
    stream = make_stream(place, workers=workers)
    path = place.root / "scored" / "shard-00001-of-00003.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"shard-00001-of-00003\.parquet: is truncated"):
        take(stream, 25)


@pytest.mark.parametrize("workers", [0, 2])
def test_pairs_stay_together(place: Place, workers: int) -> None:
    rows = LabelledRows(**place.inputs, rows="all pairs")
    stream = Stream(rows, seed=0, batch_size=6, workers=workers, window=2)
    per_epoch = sum(rows.sizes) // 3
    seen = []
    for batch in take(stream, per_epoch):
        assert batch.target.tolist() == [1, 0] * 3
        embeddings = batch.conditions["embeddings"]
        assert torch.equal(embeddings[0::2], embeddings[1::2])
        np.testing.assert_array_equal(batch.latents.float().mean((1, 2, 3)) > 0, batch.target == 1)
        assert torch.equal(batch.rows[0::2] + 1, batch.rows[1::2])
        seen.append(batch.rows)
    assert len(torch.cat(seen).unique()) == 6 * per_epoch
    whole = take(stream, 8)
    assert same(take(stream, 5, whole[2].position), whole[3:])


def test_too_few_pairs_are_named(place: Place) -> None:
    rows = LabelledRows(**place.inputs, rows="extreme pairs")
    with pytest.raises(
        InputError, match=r"train\.batch_size: 100 images are more than the .* pairs"
    ):
        Stream(rows, seed=0, batch_size=100)
