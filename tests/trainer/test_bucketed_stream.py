"""Images of several sizes: a batch holds one, and the order stays a pure function of the seed."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.miniature import SHAPES, SIZES, Place, make_settings, write_rows
from tests.trainer.test_stream import same
from tests.trainer.test_train import run
from tgo.pipeline.errors import InputError
from tgo.pipeline.storage import shards
from tgo.pipeline.training_log import sample_strips
from tgo.trainer.bucketed_stream import BucketedStream
from tgo.trainer.dataset import LabelledRows
from tgo.trainer.distributed import Ranks
from tgo.trainer.shuffle import Position
from tgo.trainer.stream import START, Batch, Stream
from tgo.trainer.training_data import make_stream

CPU = Ranks(torch.device("cpu"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return write_rows(tmp_path_factory.mktemp("sizes"), shard_rows=(80, 72, 32), several_sizes=True)


def stream_of(place: Place, kind: Any = "labelled", **train: Any) -> BucketedStream:
    rows = LabelledRows(**place.inputs, rows=kind)
    found = make_stream(rows, make_settings(Path("none"), **train).train, CPU)
    assert isinstance(found, BucketedStream)
    return found


def take(stream: BucketedStream, count: int, position: Position = START) -> list[Batch]:
    with closing(stream.batches(position)) as batches:
        return list(itertools.islice(batches, count))


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**63 - 1),
    size=st.integers(2, 10),
    positives=st.sampled_from([None, 0.5]),
    workers=st.sampled_from([0, 2]),
    data=st.data(),
)
def test_laws(
    place: Place, seed: int, size: int, positives: float | None, workers: int, data: st.DataObject
) -> None:
    changes = {"seed": seed, "batch_size": size, "positives": positives}
    stream = stream_of(place, **changes)
    per_epoch = stream.batches_per_epoch
    whole = take(stream, 2 * per_epoch)
    groups = LabelledRows(**place.inputs).groups
    shard_of = np.concatenate([np.full(len(group.places), group.shard) for group in groups])
    for epoch in range(2):
        part = whole[epoch * per_epoch : (epoch + 1) * per_epoch]
        assert part[-1].position == Position(epoch + 1, 0)
        for batch in part:
            (shard,) = set(shard_of[batch.rows.numpy()])
            assert batch.latents.shape == (size, *SHAPES[shard])
        seen = Counter(torch.cat([batch.rows for batch in part]).tolist())
        if positives is None:  # balanced, the smaller class comes more than once
            assert max(seen.values()) == 1
            buckets = [int((shard_of == shard).sum()) for shard in range(3)]
            assert seen.total() == sum(count // size * size for count in buckets)
    done = data.draw(st.integers(0, len(whole) - 1))
    position = Position(*whole[done - 1].position) if done else START
    rest = take(stream_of(place, workers=workers, **changes), len(whole) - done, position)
    assert same(rest, whole[done:])


def test_buckets_take_turns_in_another_order_each_epoch(place: Place) -> None:
    stream = stream_of(place)
    batches = take(stream, 2 * stream.batches_per_epoch)
    shapes = [tuple(batch.latents.shape[1:]) for batch in batches]
    first, second = shapes[: len(shapes) // 2], shapes[len(shapes) // 2 :]
    assert set(first) == set(SHAPES)
    assert sorted(first) == sorted(second)
    assert first != second


def test_processes_share_each_batch(place: Place) -> None:
    rows = LabelledRows(**place.inputs)
    train = make_settings(Path("none")).train
    alone = take(stream_of(place), 12)
    shares = []
    for rank in range(2):
        ranks = Ranks(torch.device("cpu"), rank=rank, size=2)
        part = make_stream(rows, train, ranks)
        assert isinstance(part, BucketedStream)
        shares.append(take(part, 12))
    for batch, one, other in zip(alone, *shares, strict=True):
        assert torch.equal(batch.latents, torch.cat([one.latents, other.latents]))
        assert torch.equal(batch.rows, torch.cat([one.rows, other.rows]))
        assert batch.position == one.position == other.position


def test_pairs_are_of_one_size(place: Place) -> None:
    for batch in take(stream_of(place, "all pairs"), 12):
        assert batch.target.tolist() == [1, 0] * 4
        assert torch.equal(batch.rows[0::2] + 1, batch.rows[1::2])


def test_a_size_that_fills_no_batch_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = write_rows(tmp_path, shard_rows=(80, 72, 8), several_sizes=True)
    shapes = {batch.latents.shape[1:] for batch in take(stream_of(place), 30)}
    assert shapes == set(SHAPES[:2])
    assert "left out: images with latents of shape (4, 10, 6): train.batch_size: 8" in caplog.text
    rows, train = LabelledRows(**place.inputs), make_settings(Path("none"), batch_size=60).train
    with pytest.raises(InputError, match=r"train\.batch_size: 60 is more than the 54 usable"):
        make_stream(rows, train, CPU)


def test_rows_of_one_size_come_as_ever(tmp_path: Path) -> None:
    rows = LabelledRows(**write_rows(tmp_path).inputs)
    train = make_settings(Path("none")).train
    found = make_stream(rows, train, CPU)
    assert isinstance(found, Stream)


def test_a_run_judges_and_draws_every_size(place: Place, model: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "validation.jsonl"
    texts = [f"a red circle {number}" for number in range(8)]
    prompts.write_text("\n".join(json.dumps({"prompt": text}) for text in texts))
    chosen = make_settings(
        model,
        resolution=SIZES,
        held_out=0.3,
        log_every=6,
        samples={"prompts": 8, "every": 12},
    )
    named = chosen.prompts.model_copy(
        update={"validation": chosen.prompts.validation.model_copy(update={"source": str(prompts)})}
    )
    found = run(chosen.model_copy(update={"prompts": named}), place)
    assert [line["step"] for line in found["lines"]] == [6, 12]
    assert all(np.isfinite(line["held_out_loss"]) for line in found["lines"])
    strips = dict(sample_strips.read(place.paths().samples))
    assert list(strips) == [0, 12]
    sizes = [[image.shape[1], image.shape[0]] for image in strips[12]]
    assert sizes == sample_strips.facts(place.paths().samples)["sizes"]
    assert len({tuple(size) for size in sizes}) > 1
    assert all(image.std() > 0 for image in strips[12])
    before = {path.name: path.read_bytes() for path in place.paths().samples.glob("*.png")}
    longer = chosen.train.model_copy(update={"steps": 14})
    run(chosen.model_copy(update={"prompts": named, "train": longer}), place)
    after = {path.name: path.read_bytes() for path in place.paths().samples.glob("*.png")}
    assert after == before  # a run that goes on keeps what it has drawn


def test_shards_of_other_sizes_than_the_settings_are_refused(place: Place, model: Path) -> None:
    chosen = make_settings(model, resolution=SIZES[:2])
    with pytest.raises(InputError, match=r"the scored shards hold \(4, 10, 6\); run `tgo score`"):
        run(chosen, place, "refused")


def test_shards_of_several_sizes_open_as_one_data_set(place: Place) -> None:
    from datasets import load_dataset

    rows = load_dataset(
        "parquet", data_files=[str(path) for path in shards.shard_paths(place.inputs["scored"])]
    )["train"]
    assert {len(row) for row in rows["latents"] if row} == {int(np.prod(shape)) for shape in SHAPES}
    for path, shape in zip(shards.shard_paths(place.inputs["scored"]), SHAPES, strict=True):
        latents = shards.read_latents(path)
        assert latents.shape[1:] == shape
        assert np.isnan(latents[2]).all()
        assert np.isfinite(latents[:2]).all()
        np.testing.assert_array_equal(
            shards.read_latents(path, 0, np.array([4, 1])), latents[[4, 1]]
        )
