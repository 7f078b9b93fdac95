from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from tests.trainer.miniature import SHAPE, TOKENS, WIDTH, Place, make_settings
from tgo.pipeline.errors import InputError
from tgo.pipeline.storage import embeddings, shards
from tgo.pipeline.storage.embeddings import path_for
from tgo.trainer.dataset import LabelledRows, PromptTable, pair
from tgo.trainer.objectives import load_objective
from tgo.trainer.training_data import load_rows


def test_rows_are_joined_by_order(place: Place) -> None:
    rows = LabelledRows(**place.inputs)
    assert (rows.latent_shape, rows.latent_dtype) == (SHAPE, np.float16)
    seen = 0
    for number, group in enumerate(rows.groups):
        path = shards.shard_paths(place.root / "scored")[group.shard]
        ids = shards.read_shard(path, ["id"], group.index)["id"].to_numpy()[group.places]
        latents = rows.latents(number)
        assert latents.shape == (len(group.places), *SHAPE)
        # bright latents are the positives: labels lie beside the latents they belong to
        np.testing.assert_array_equal(latents.mean(axis=(1, 2, 3)) > 0, group.target == 1)
        told = [f"p{group.shard}.{prompt}" for prompt in group.prompt]
        assert told == [row.rsplit("-", 1)[0] for row in ids]
        assert group.first == seen
        seen += len(group.places)
    assert seen == sum(rows.sizes) == 160 - 26 - 24 - 2


def test_embeddings_belong_to_their_prompts(place: Place) -> None:
    rows = LabelledRows(**place.inputs)
    found = rows.conditions(np.array([1, 0, 2, 0]), np.array([5, 7, 1, 0]))["embeddings"]
    assert found.shape == (4, TOKENS, WIDTH)
    torch.testing.assert_close(found[:, 0, 0].float() * 256, torch.tensor([105.0, 7, 201, 0]))
    assert rows.unconditional["embeddings"].shape == (TOKENS, WIDTH)


def test_conditions_of_every_name_and_type_are_carried(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    # its checksum is not the recorded one
    monkeypatch.setattr("tgo.trainer.dataset.is_intact", lambda *_: True)
    paths = shards.shard_paths(place.root / "scored")
    given = {
        "embeddings": torch.randn(20, 5, 3).bfloat16(),
        "mask": torch.rand(20, 5) < 0.5,
        "pooled": torch.randn(20, 3).half(),
    }
    empty = {name: value[0].clone() for name, value in given.items()}
    for number, shard in enumerate(paths):
        ids = [f"p{number}.{prompt}" for prompt in range(20)]
        path = path_for(place.root / "embeddings", shard)
        embeddings.write(path, embeddings.Embeddings(given, empty), ids)
    rows = LabelledRows(**place.inputs)
    found = rows.conditions(np.array([0, 2, 1]), np.array([1, 0, 7]))
    assert sorted(found) == sorted(given)
    for name, value in given.items():
        assert torch.equal(found[name], value[[1, 0, 7]])
        assert torch.equal(rows.unconditional[name], value[0])


def test_positives_only(place: Place) -> None:
    everything = LabelledRows(**place.inputs)
    positives = LabelledRows(**place.inputs, rows="positives")
    assert all((group.target == 1).all() for group in positives.groups)
    assert sum(positives.sizes) == sum(int(group.target.sum()) for group in everything.groups)


def test_the_fingerprint_follows_labels_and_weights(place: Place) -> None:
    before = LabelledRows(**place.inputs).fingerprint
    assert LabelledRows(**place.inputs).fingerprint == before
    relabel(place, lambda table: table.set_column(4, "weight", pc.add(table["weight"], 1)))
    assert LabelledRows(**place.inputs).fingerprint != before


def test_graded_targets_take_the_place_of_labels(place: Place) -> None:
    before = LabelledRows(**place.inputs)
    path = shards.shard_paths(place.root / "labelled")[1]
    table = shards.read_shard(path)
    label = table["label"].to_numpy()
    target = np.where(label >= 0, (label + 1) / 3, np.nan).astype(np.float32)
    shards.write_shard(path, table.append_column("target", pa.array(target)))
    rows = LabelledRows(**place.inputs)
    assert rows.sizes == before.sizes
    assert rows.fingerprint != before.fingerprint
    for group, old in zip(rows.groups, before.groups, strict=True):
        graded = (old.target + 1) / 3 if group.shard == 1 else old.target
        np.testing.assert_array_equal(group.target, graded.astype(np.float32))


def relabel(place: Place, change: Callable[[pa.Table], pa.Table]) -> Path:
    path = shards.shard_paths(place.root / "labelled")[1]
    table = change(shards.read_shard(path))
    shards.write_shard(path, table.cast(shards.LABELLED_SCHEMA))
    return path


def test_labels_of_other_rows_are_refused(place: Place) -> None:
    relabel(place, lambda table: table.take(list(range(table.num_rows))[::-1]))
    with pytest.raises(InputError, match=r"labelled/shard-00001.*its ids are not those of.*label"):
        LabelledRows(**place.inputs)


def test_missing_files_are_named(place: Place) -> None:
    for name in (
        "labelled/shard-00002-of-00003.parquet",
        "embeddings/shard-00000-of-00003.safetensors",
    ):
        (place.root / name).unlink()
        with pytest.raises(InputError, match=f"{name}: is missing.* run"):
            LabelledRows(**place.inputs)


def test_bad_weights_and_labels_without_codes_are_refused(place: Place) -> None:
    def no_row_excluded(table: pa.Table) -> pa.Table:
        label = pc.if_else(pc.equal(table["label"], -1), 1, table["label"])
        return table.set_column(3, "label", label.cast(pa.int8()))

    relabel(place, no_row_excluded)
    rows = LabelledRows(**place.inputs)
    number = next(n for n, group in enumerate(rows.groups) if group.shard == 1)
    with pytest.raises(InputError, match=r"shard-00001.*a labelled row has no latents"):
        rows.latents(number)
    weights = pa.array([float("nan")] * 72, pa.float32())
    relabel(place, lambda table: table.set_column(4, "weight", weights))
    with pytest.raises(InputError, match=r"shard-00001.*weight is NaN or infinite"):
        LabelledRows(**place.inputs)


def test_damaged_or_foreign_embeddings_are_named(place: Place) -> None:
    path = place.root / "embeddings" / "shard-00001-of-00003.safetensors"
    whole = path.read_bytes()
    foreign = (path.parent / "shard-00000-of-00003.safetensors").read_bytes()
    for harmed in (whole[:-40], whole[:-1] + b"\x7f", foreign):
        path.write_bytes(harmed)
        with pytest.raises(
            InputError, match=r"shard-00001-of-00003\.safetensors: .* run `tgo score`"
        ):
            LabelledRows(**place.inputs)


def test_a_prompt_without_embedding_is_named(place: Place) -> None:
    shard = shards.shard_paths(place.root / "scored")[0]
    table = PromptTable(path_for(place.root / "embeddings", shard), shard)
    assert table.find(pa.array(["p0.3", "p0.0"])).tolist() == [3, 0]
    with pytest.raises(InputError, match=r"shard-00000.*has no prompt p9\.9; run"):
        table.find(pa.array(["p0.3", "p9.9"]))


def test_pairs_are_of_one_prompt_and_lie_side_by_side(place: Place) -> None:
    for choice in ("all pairs", "extreme pairs"):
        rows = LabelledRows(**place.inputs, rows=choice)
        assert rows.unit == 2
        for number, (group, size) in enumerate(zip(rows.groups, rows.sizes, strict=True)):
            winner, loser = group.places[0::2], group.places[1::2]
            assert len(winner) == len(loser) == size
            np.testing.assert_array_equal(group.prompt[0::2], group.prompt[1::2])
            assert (group.score[0::2] > group.score[1::2]).all()
            assert (group.target[0::2] == 1).all()
            assert (group.target[1::2] == 0).all()
            if size:  # latents follow: bright ones score higher in this data set
                bright = rows.latents(number).mean(axis=(1, 2, 3)) > 0
                np.testing.assert_array_equal(bright, group.target == 1)


def test_which_pairs_scores_give() -> None:
    score = np.array([0.1, 0.5, 0.5, np.nan, 0.9, 0.3, 0.3], np.float32)
    prompt = np.array([0, 0, 0, 0, 0, 1, 1])
    places = np.arange(10, 17)
    every = pair(score, prompt, places, extreme=False).reshape(-1, 2).tolist()
    assert sorted(every) == [[11, 10], [12, 10], [14, 10], [14, 11], [14, 12]]
    assert pair(score, prompt, places, extreme=True).tolist() == [14, 10]
    assert pair(score[:0], prompt[:0], places[:0], extreme=False).tolist() == []


def test_scores_without_any_difference_give_no_pairs(place: Place) -> None:
    for path in shards.shard_paths(place.root / "labelled"):
        table = shards.read_shard(path)
        equal = pa.array(np.ones(table.num_rows), pa.float32())
        shards.write_shard(path, table.set_column(1, "score", equal))
    with pytest.raises(InputError, match="holds no pairs of a prompt's images"):
        LabelledRows(**place.inputs, rows="all pairs")


def test_a_signal_is_asked_for_once_with_prompts_kept_apart(place: Place) -> None:
    asked = []

    def per_row_value(scores: np.ndarray, prompts: np.ndarray) -> np.ndarray:
        asked.append((scores, prompts))
        return 10 * scores + 1000 * prompts

    rows = LabelledRows(**place.inputs, per_row_value=per_row_value)
    assert len(asked) == 1
    assert len(np.unique(asked[0][1])) == 20 + 18 + 2
    before = [0, 20, 38]
    for group in rows.groups:
        expected = 10 * group.score + 1000 * (before[group.shard] + group.prompt)
        np.testing.assert_array_equal(group.per_row_value, expected)
    assert rows.fingerprint != LabelledRows(**place.inputs).fingerprint


def test_negatives_take_other_tables(place: Place) -> None:
    rows = LabelledRows(**place.inputs)
    others = [
        PromptTable(path_for(place.root / "embeddings", path), path)
        for path in shards.shard_paths(place.root / "scored")
    ]
    rows.condition_negatives(others)
    for number, group in enumerate(rows.groups):
        expected = group.shard + 3 * (group.target == 0)
        np.testing.assert_array_equal(rows.tables_of(number), expected)


def test_scores_that_are_all_equal_teach_nothing(place: Place) -> None:
    for path in shards.shard_paths(place.root / "labelled"):
        table = shards.read_shard(path)
        same = pa.array(np.ones(len(table)), pa.float32())
        index = table.column_names.index("score")
        shards.write_shard(path, table.set_column(index, table.schema.field("score"), same))
    objective = load_objective(make_settings(Path("none"), objective="rwr").train)
    with pytest.raises(InputError, match="learns from differences of scores, and all 108 are 1"):
        load_rows(place.paths(), objective)
