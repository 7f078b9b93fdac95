from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from tests.stage_one import PROMPTS, contents, load_family, score_into
from tgo.pipeline.errors import InputError
from tgo.pipeline.generators.diffusion import Diffusion
from tgo.pipeline.generators.sizes import Size, choose
from tgo.pipeline.scoring import sampling
from tgo.pipeline.scoring.worker_share import Share
from tgo.pipeline.seeds import sample_seed
from tgo.pipeline.sources.prompts import Prompt
from tgo.pipeline.storage import aside, embeddings, fingerprint, manifest, shards
from tgo.pipeline.storage.locks import hold
from tgo.rewards.panel import Panel


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_family: Any, tiny_panel: Any) -> Path:
    """A finished stage one, not to be changed."""
    root = tmp_path_factory.mktemp("finished")
    score_into(root, tiny_family, tiny_panel)
    return root


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of a finished stage one, which the test may change."""
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def asleep(tiny_family: Diffusion, monkeypatch: pytest.MonkeyPatch) -> Diffusion:
    def refuse(*_: Any) -> Any:
        raise AssertionError("images were generated again")

    monkeypatch.setattr(Diffusion, "sample", refuse)
    return tiny_family


def scored(root: Path) -> Path:
    return root / "scored"


def test_rows_are_what_the_contract_says(finished: Path, tiny_family: Diffusion) -> None:
    paths = shards.shard_paths(scored(finished))
    assert [path.name for path in paths] == [shards.shard_name(i, 4) for i in range(4)]
    table = shards.read_shard(paths[0])
    assert table.column_names == [*shards.FIXED_COLUMNS, "aesthetic", "clip"]
    assert table["id"].to_pylist() == [f"p{n}-{r:03d}" for n in range(3) for r in range(2)]
    assert table["prompt"][4].as_py() == "a red circle 2"
    assert set(table["status"].to_pylist()) == {"ok"}
    assert table["seed"].to_pylist()[3] == sample_seed(0, "p1", 1)
    assert sum(shards.read_shard(path, ["id"]).num_rows for path in paths) == 20
    metadata = shards.read_metadata(paths[0])
    assert metadata["tgo.latents"] == {"shape": [4, 8, 8], "dtype": "float16"}
    assert metadata["tgo.rewards"]["clip"]["unit"] == "cosine"
    assert metadata["tgo.versions"]["torch"] == torch.__version__.split("+")[0]
    latents = torch.from_numpy(shards.read_latents(paths[0]).copy())
    images = [sampling.decode_png(row["bytes"]) for row in table["image"].to_pylist()]
    # latents decode to the stored image; batch size differs from the run's, so allow 1 level of 255
    decoded = tiny_family.decode(latents).numpy()
    assert np.abs(decoded.astype(int) - np.stack(images).astype(int)).max() <= 1


def test_a_shard_holds_images_of_one_size(
    tiny_generator: Path, tiny_panel: Panel, tmp_path: Path
) -> None:
    from datasets import load_dataset

    sizes = [[16, 16], [24, 16], [16, 24]]
    family = load_family(tiny_generator, resolution=sizes)
    summary = score_into(tmp_path, family, tiny_panel)
    paths = shards.shard_paths(scored(tmp_path))
    assert summary.made == len(paths)
    seen: dict[str, Size] = {}
    for path in paths:
        table = shards.read_shard(path)
        pictures = [sampling.decode_png(row["bytes"]) for row in table["image"].to_pylist()]
        (shape,) = {picture.shape for picture in pictures}
        size = Size(shape[2], shape[1])
        assert shards.read_metadata(path)["tgo.latents"]["shape"] == list(
            family.latent_shapes[size]
        )
        decoded = family.decode(torch.from_numpy(shards.read_latents(path))).numpy()
        assert np.abs(decoded.astype(int) - np.stack(pictures).astype(int)).max() <= 1
        seen |= dict.fromkeys(table["prompt_id"].to_pylist(), size)
    assert seen == {prompt.id: choose(prompt.id, list(family.latent_shapes)) for prompt in PROMPTS}
    assert len(set(seen.values())) > 1
    rows = load_dataset("parquet", data_files=[str(path) for path in paths])["train"]
    assert len(rows) == 20
    before = contents(tmp_path)
    turned = load_family(tiny_generator, resolution=sizes[::-1])
    assert score_into(tmp_path, turned, tiny_panel).made == 0  # shards change places
    assert score_into(tmp_path, family, tiny_panel).made == 0
    assert contents(tmp_path) == before


def test_another_size_makes_only_its_own_images(
    tiny_generator: Path, tiny_panel: Panel, tmp_path: Path
) -> None:
    wide, high = [24, 16], [16, 24]
    chosen = [Prompt(f"q{number}", f"a red circle {number}", "all") for number in range(24)]
    one = {"rows_per_shard": 2}  # a prompt a shard, so that none is cut otherwise
    two = load_family(tiny_generator, resolution=[[16, 16], wide])
    assert score_into(tmp_path, two, tiny_panel, chosen, **one).made == 24
    three = load_family(tiny_generator, resolution=[[16, 16], wide, high])
    moved = [p for p in chosen if choose(p.id, list(three.latent_shapes)) == Size(*high)]
    summary = score_into(tmp_path, three, tiny_panel, chosen, **one)
    assert 0 < summary.made == len(moved) < 24


def test_images_are_sampled_from_the_stored_embeddings(
    finished: Path, tiny_family: Diffusion
) -> None:
    stored = embeddings.read(finished / "embeddings/shard-00001-of-00004.safetensors")
    assert list(stored.prompts) == list(stored.unconditional) == ["embeddings"]
    assert stored.prompts["embeddings"].dtype == torch.float16
    assert stored.prompts["embeddings"].shape[0] == 3
    empty = tiny_family.encode_prompts([""])["embeddings"][0]
    found = stored.unconditional["embeddings"].float()
    torch.testing.assert_close(found, empty, atol=1e-2, rtol=1e-2)
    rows = sampling.rows_of(PROMPTS[3:6], seed=0, images_per_prompt=2)
    sampled = next(sampling.sample(tiny_family, rows[:4], stored, 4))
    path = shards.shard_paths(scored(finished))[1]
    np.testing.assert_array_equal(sampled.latents.numpy(), shards.read_latents(path)[:4])


def test_a_second_run_changes_nothing(copied: Path, asleep: Diffusion, tiny_panel: Panel) -> None:
    before = contents(copied)
    stamps = {path: path.stat().st_mtime_ns for path in shards.present(scored(copied))}
    summary = score_into(copied, asleep, tiny_panel)
    assert str(summary) == "20 images in 4 shards (0 made, 0 completed, 4 kept)"
    assert contents(copied) == before
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


def test_a_lost_shard_is_made_again_to_the_same_bytes(
    finished: Path, copied: Path, tiny_family: Diffusion, tiny_panel: Panel
) -> None:
    (scored(copied) / shards.shard_name(2, 4)).unlink()
    (scored(copied) / f".{shards.shard_name(2, 4)}.partial").write_bytes(b"PAR1 half a shard")
    assert score_into(copied, tiny_family, tiny_panel).made == 1
    assert contents(copied) == contents(finished)


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"images_per_prompt": 3}, {"batch_size": 3}],
    ids=lambda change: next(iter(change)),
)
def test_a_changed_setting_keeps_no_stale_shard(
    copied: Path,
    tmp_path: Path,
    tiny_family: Diffusion,
    tiny_panel: Panel,
    change: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    summary = score_into(copied, tiny_family, tiny_panel, **change)
    assert summary.made == summary.shards
    score_into(tmp_path / "fresh", tiny_family, tiny_panel, **change)
    shutil.rmtree(aside.folder_of(scored(copied)))
    assert contents(copied) == contents(tmp_path / "fresh")
    (name,) = change
    assert f"{name} was " in caplog.text


def test_shards_of_other_settings_come_back_with_them(
    finished: Path, copied: Path, tiny_family: Diffusion, tiny_panel: Panel
) -> None:
    score_into(copied, tiny_family, tiny_panel, PROMPTS[:3], seed=1)
    (copied / "scored/notes.txt").write_text("mine")
    assert len(aside.entries_of(scored(copied))) == 4
    assert str(score_into(copied, tiny_family, tiny_panel)).endswith(
        "(0 made, 0 completed, 4 kept)"
    )
    (entry,) = aside.entries_of(scored(copied))
    assert entry.reason.startswith("seed was 1, is 0") or "beyond" in entry.reason
    assert (copied / "scored/notes.txt").read_text() == "mine"
    shutil.rmtree(aside.folder_of(scored(copied)))
    (copied / "scored/notes.txt").unlink()
    assert contents(copied) == contents(finished)


def test_shards_come_back_to_names_that_others_had(
    finished: Path, copied: Path, tiny_family: Diffusion, tiny_panel: Panel
) -> None:
    assert score_into(copied, tiny_family, tiny_panel, seed=1).made == 4
    assert score_into(copied, tiny_family, tiny_panel).made == 0
    shutil.rmtree(aside.folder_of(scored(copied)))
    assert contents(copied) == contents(finished)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE, errno.EMFILE])
@pytest.mark.parametrize("reader", ["ParquetFile", "read_metadata"])
def test_a_disk_that_fails_is_no_damage(
    copied: Path,
    asleep: Diffusion,
    tiny_panel: Panel,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    reader: str,
) -> None:
    before = contents(copied)

    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(number, "the disk says no")

    monkeypatch.setattr(pq, reader, fail)
    with pytest.raises(InputError, match=r"cannot be read \(the disk says no\); nothing"):
        score_into(copied, asleep, tiny_panel)
    assert contents(copied) == before


def test_a_flipped_digit_in_the_manifest_harms_no_shard(
    finished: Path, copied: Path, asleep: Diffusion, tiny_panel: Panel
) -> None:
    path = scored(copied) / manifest.NAME
    path.write_text(path.read_text().replace('"bytes": ', '"bytes": 1', 1))
    assert score_into(copied, asleep, tiny_panel).made == 0
    assert contents(copied) == contents(finished)


def test_a_changed_sampler_or_model_keeps_no_stale_shard(
    copied: Path,
    tmp_path: Path,
    tiny_generator: Path,
    tiny_panel: Panel,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert score_into(copied, load_family(tiny_generator, steps=3), tiny_panel).made == 4
    assert "generator.steps was 2, is 3; set aside in " in caplog.text
    other = load_family(tiny_generator)
    with torch.no_grad():
        next(other.network.parameters()).add_(0.1)
    other.save(other.network, tmp_path / "other")
    assert score_into(copied, load_family(tmp_path / "other", steps=3), tiny_panel).made == 4
    assert "generator.model_sha256 was" in caplog.text


def test_changed_code_keeps_no_stale_shard(
    copied: Path, tiny_family: Diffusion, tiny_panel: Panel, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = fingerprint._source

    def edited(module: str) -> tuple[str, tuple[str, ...]]:
        text, imports = source(module)
        return (f"{text}\nSCALE = 2" if module == target else text), imports

    monkeypatch.setattr(fingerprint, "_source", edited)
    target = "tgo.rewards.images"  # imported by the reward models
    assert "4 completed, 0 kept" in str(score_into(copied, tiny_family, tiny_panel))
    target = "tgo.pipeline.page.report"  # changes no bytes; and the rewards' code is as before
    assert "4 completed, 0 kept" in str(score_into(copied, tiny_family, tiny_panel))
    assert "0 completed, 4 kept" in str(score_into(copied, tiny_family, tiny_panel))
    target = "tgo.pipeline.generators.base"  # imported by the family's module
    assert score_into(copied, tiny_family, tiny_panel).made == 4


def test_a_new_reward_fills_one_column_without_generating(
    finished: Path,
    tmp_path: Path,
    asleep: Diffusion,
    tiny_rewards: dict[str, str],
    tiny_panel: Panel,
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    images = shards.read_shard(shards.present(scored(finished))[0], ["image"])
    names = ("clip", "aesthetic", "imagereward")
    panel = Panel.load({name: tiny_rewards[name] for name in names})
    assert score_into(tmp_path / "run", asleep, panel).completed == 4
    path = shards.present(scored(tmp_path / "run"))[0]
    assert shards.read_shard(path).column_names[-3:] == ["aesthetic", "clip", "imagereward"]
    assert shards.read_shard(path, ["image"]).equals(images)
    # and taking it away again leaves what was there before
    assert score_into(tmp_path / "run", asleep, tiny_panel).completed == 4
    assert contents(tmp_path / "run") == contents(finished)


def test_a_completed_column_is_the_one_a_full_run_writes(
    finished: Path, tmp_path: Path, tiny_family: Diffusion, tiny_panel: Panel
) -> None:
    score_into(tmp_path, tiny_family, tiny_panel.only(["aesthetic"]))
    assert score_into(tmp_path, tiny_family, tiny_panel).completed == 4
    assert contents(tmp_path) == contents(finished)


def test_a_changed_checkpoint_renews_its_column_only(
    copied: Path, tmp_path: Path, asleep: Diffusion, tiny_rewards: dict[str, str]
) -> None:
    shutil.copytree(Path(tiny_rewards["aesthetic"]).parent, tmp_path / "rewards")
    other = tmp_path / "rewards/aesthetic"
    (head,) = other.glob("*.pth")
    state = torch.load(head, weights_only=True)
    torch.save({name: value * 1.25 for name, value in state.items()}, head)
    before = shards.read_shard(shards.present(scored(copied))[0])
    panel = Panel.load({"clip": tiny_rewards["clip"], "aesthetic": str(other)})
    assert score_into(copied, asleep, panel).completed == 4
    after = shards.read_shard(shards.present(scored(copied))[0])
    assert after["clip"].equals(before["clip"])
    assert not after["aesthetic"].equals(before["aesthetic"])


def test_lost_embeddings_are_made_again_without_generating(
    finished: Path, copied: Path, asleep: Diffusion, tiny_panel: Panel
) -> None:
    lost, harmed = sorted((copied / "embeddings").iterdir())[:2]
    lost.unlink()
    harmed.write_bytes(harmed.read_bytes()[:-1] + b"\x01")
    assert score_into(copied, asleep, tiny_panel).completed == 2
    assert contents(copied) == contents(finished)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 12] ^= 1
    path.write_bytes(data)


def put_another(path: Path) -> None:
    pq.write_table(shards.read_shard(path, ["id"]).replace_schema_metadata(), path)


@pytest.mark.parametrize("with_manifest", [True, False])
@pytest.mark.parametrize("harm", [truncate, flip_a_bit, put_another])
def test_a_damaged_shard_is_named_and_made_again(
    finished: Path,
    copied: Path,
    tiny_family: Diffusion,
    tiny_panel: Panel,
    caplog: pytest.LogCaptureFixture,
    harm: Any,
    with_manifest: bool,
) -> None:
    path = scored(copied) / shards.shard_name(1, 4)
    harm(path)
    harmed = path.read_bytes()
    if not with_manifest:
        (scored(copied) / manifest.NAME).unlink()
    summary = score_into(copied, tiny_family, tiny_panel)
    assert (summary.made, summary.completed) == (1, 0)
    kept = aside.folder_of(scored(copied)) / "0001" / path.name
    told = caplog.text
    assert f"{path}: " in told
    assert f"set aside as {kept}" in told
    assert kept.read_bytes() == harmed
    shutil.rmtree(kept.parents[1])
    assert contents(copied) == contents(finished)


def test_a_file_that_is_no_shard_is_set_aside(
    finished: Path, copied: Path, asleep: Diffusion, tiny_panel: Panel
) -> None:
    stray = scored(copied) / "export.parquet"
    pq.write_table(shards.read_shard(shards.present(scored(copied))[0], ["id"]), stray)
    pq.write_table(pq.read_table(stray).replace_schema_metadata(), stray)
    score_into(copied, asleep, tiny_panel)
    (entry,) = aside.entries_of(scored(copied))
    assert (entry.kind, entry.names) == ("foreign", ("export.parquet",))
    shutil.rmtree(aside.folder_of(scored(copied)))
    assert contents(copied) == contents(finished)


def test_more_or_fewer_prompts_keep_the_images_they_share(
    finished: Path, copied: Path, asleep: Diffusion, tiny_panel: Panel, tiny_family: Diffusion
) -> None:
    assert score_into(copied, asleep, tiny_panel, PROMPTS[:6]).made == 0
    names = {path.name for path in scored(copied).iterdir()}
    assert names == {shards.shard_name(0, 2), shards.shard_name(1, 2), manifest.NAME}
    assert len(list((copied / "embeddings").iterdir())) == 2


def test_growing_again_takes_back_what_was_set_aside(
    finished: Path, copied: Path, tiny_panel: Panel, tiny_family: Diffusion
) -> None:
    score_into(copied, tiny_family, tiny_panel, PROMPTS[:6])
    assert score_into(copied, tiny_family, tiny_panel).made == 0
    assert contents(copied) == contents(finished)


def test_a_sampling_that_fails_keeps_its_row_and_says_why(
    tmp_path: Path, tiny_family: Diffusion, tiny_panel: Panel, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = Diffusion.sample

    def overflowing(self: Diffusion, *args: Any) -> torch.Tensor:
        latents = sample(self, *args).clone()
        latents[1] = 1e6  # beyond float16
        return latents

    monkeypatch.setattr(Diffusion, "sample", overflowing)
    score_into(tmp_path, tiny_family, tiny_panel.only(["clip"]), PROMPTS[:3])
    (path,) = shards.shard_paths(scored(tmp_path))
    rows = shards.read_shard(path, ["status", "error", "clip"]).to_pylist()
    assert [row["status"] for row in rows] == ["ok", "failed", "ok", "ok", "ok", "failed"]
    assert rows[1]["clip"] is None
    assert "NaN or infinite" in rows[1]["error"]
    score_into(
        tmp_path, tiny_family, tiny_panel, PROMPTS[:3]
    )  # it stays failed when columns are filled in
    assert shards.read_shard(path, ["aesthetic"])["aesthetic"].null_count == 2


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_names_its_sample(
    tmp_path: Path,
    tiny_family: Diffusion,
    tiny_panel: Panel,
    monkeypatch: pytest.MonkeyPatch,
    value: float,
) -> None:
    score = Panel.score

    def broken(self: Panel, images: torch.Tensor, texts: list[str]) -> dict[str, torch.Tensor]:
        scores = {name: values.clone() for name, values in score(self, images, texts).items()}
        scores["clip"][[text.endswith(" 4") for text in texts].index(True)] = value
        return scores

    score_into(tmp_path, tiny_family, tiny_panel, PROMPTS[:3])
    monkeypatch.setattr(
        Panel, "score", lambda *args: broken(*args) if " 4" in str(args[2]) else score(*args)
    )
    with pytest.raises(InputError, match=rf"p4-000: its clip score is {value}"):
        score_into(tmp_path, tiny_family, tiny_panel)
    assert len(shards.present(scored(tmp_path))) == 1  # the finished shard stays


def test_a_held_folder_is_not_touched(
    copied: Path, tiny_family: Diffusion, tiny_panel: Panel
) -> None:
    before = contents(copied)
    with hold(scored(copied)), pytest.raises(InputError, match="is being written by process"):
        score_into(copied, tiny_family, tiny_panel, seed=1)
    assert contents(copied) == before


def test_datasets_opens_a_scored_folder(finished: Path, tmp_path: Path) -> None:
    import datasets

    opened = datasets.load_dataset(
        str(scored(finished)), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert len(opened) == 20
    assert opened[7]["image"].size == (16, 16)
    assert opened[7]["clip"] == pytest.approx(
        shards.read_scores(scored(finished), "clip")["clip"][7].as_py()
    )


def test_workers_with_shares_write_what_one_run_writes(
    finished: Path, tmp_path: Path, tiny_family: Diffusion, tiny_panel: Panel
) -> None:
    last = score_into(tmp_path, tiny_family, tiny_panel, share=Share(1, 3))
    assert str(last) == "6 images in 1 shards (1 made, 0 completed, 0 kept)"
    first = score_into(tmp_path, tiny_family, tiny_panel, share=Share(0, 3))
    assert (first.made, first.images) == (2, 8)
    assert score_into(tmp_path, tiny_family, tiny_panel, share=Share(5, 6)).shards == 0
    assert score_into(tmp_path, tiny_family, tiny_panel, share=Share(2, 3)).made == 1
    assert contents(tmp_path) == contents(finished)


def test_an_error_behind_the_sampling_ends_the_run_and_leaves_no_half_file(
    tmp_path: Path, tiny_family: Diffusion, tiny_panel: Panel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(image: torch.Tensor) -> bytes:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sampling, "encode_png", full)
    with pytest.raises(InputError, match=r"shard-00000-of-00004\.parquet: no space left"):
        score_into(tmp_path, tiny_family, tiny_panel)
    assert not list(tmp_path.rglob("*.partial"))
    monkeypatch.undo()
    assert score_into(tmp_path, tiny_family, tiny_panel, PROMPTS[:3]).made == 1


def test_a_prompt_that_occurs_twice_is_encoded_once(
    tmp_path: Path, tiny_family: Diffusion, tiny_panel: Panel, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    encode = Diffusion.encode_prompts

    def noting(self: Diffusion, prompts: list[str]) -> Any:
        seen.extend(dict.fromkeys(prompts))
        return encode(self, prompts)

    monkeypatch.setattr(Diffusion, "encode_prompts", noting)
    twice = [PROMPTS[0], PROMPTS[0]._replace(id="again")]
    score_into(tmp_path, tiny_family, tiny_panel.only(["clip"]), twice)
    assert seen == [PROMPTS[0].text, ""]
    (path,) = shards.shard_paths(scored(tmp_path))
    assert not np.array_equal(*shards.read_latents(path)[[0, 2]])  # other seeds, other images


def test_a_compiled_generator_makes_its_own_shards(
    copied: Path,
    tiny_family: Diffusion,
    tiny_panel: Panel,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert score_into(copied, tiny_family, tiny_panel, compiled=True).made == 4
    assert "generator.compiled was null, is true; set aside in " in caplog.text
