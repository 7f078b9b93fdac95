"""Rated pictures become scored shards that stages two and three take for any others."""

from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from tests import workspace
from tests.rated import BAD, COUNT, write_rated
from tests.rewards.awkward import colours
from tests.stage_one import contents, load_family, score_into
from tgo.pipeline import layout
from tgo.pipeline.cards import dataset_card
from tgo.pipeline.cli import app
from tgo.pipeline.config import settings
from tgo.pipeline.errors import InputError
from tgo.pipeline.generators.diffusion import Diffusion
from tgo.pipeline.generators.sizes import Size
from tgo.pipeline.scoring import import_images, import_ratings
from tgo.pipeline.scoring.import_shards import Job
from tgo.pipeline.sources import ratings
from tgo.pipeline.sources.image_table import Source
from tgo.pipeline.sources.prompts import id_of
from tgo.pipeline.storage import embeddings, manifest, origin, shards
from tgo.pipeline.tools import verify


def import_into(root: Path, family: Any, source: Path, **changes: Any) -> import_ratings.Summary:
    """Import into `root`: shards of six rows, batches of four."""
    return import_ratings.import_ratings(
        family,
        ratings.read(Source(str(source))),
        root / "scored",
        **{
            "embeddings_folder": root / "embeddings",
            "batch_size": 4,
            "rows_per_shard": 6,
            **changes,
        },
    )


@pytest.fixture(scope="module")
def rated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rated(tmp_path_factory.mktemp("rated") / "images")


@pytest.fixture(scope="module")
def whole(
    rated: Path, tiny_family: Diffusion, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    """Every byte of an uninterrupted import."""
    root = tmp_path_factory.mktemp("whole")
    summary = import_into(root, tiny_family, rated)
    assert (summary.shards, summary.made, summary.failed) == (4, 4, 2)
    assert str(summary).endswith("(the first: 07.png: no image of a format that is read here)")
    return contents(root)


def put_back(root: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)


def test_every_picture_has_its_row(
    whole: dict[str, bytes], tiny_family: Diffusion, rated: Path, tmp_path: Path
) -> None:
    put_back(tmp_path, whole)
    paths = shards.shard_paths(tmp_path / "scored")
    rows = [row for path in paths for row in shards.read_shard(path).to_pylist()]
    assert [row["id"] for row in rows] == [f"{number:02d}.png" for number in range(COUNT)]
    for number, row in enumerate(rows):
        assert row["prompt"] == f"a red circle {number // 2}"
        assert row["prompt_id"] == id_of(row["prompt"])
        assert (row["replicate"], row["domain"]) == (number % 2, f"d{number % 2}")
        assert row["seed"] is None
        assert row["rating"] == (2.5 if number == 0 else 1 + 7 * number % 5)
        assert row["n_ratings"] == (2 if number == 0 else 1)
        broken = number in BAD
        assert (row["status"], bool(row["error"])) == ("failed" if broken else "ok", broken)
        assert (row["image"] is None) == (row["latents"] is None) == broken
    assert rows[12]["error"] == "cannot be read (No such file or directory)"
    image = np.array(Image.open(io.BytesIO(rows[3]["image"]["bytes"])))
    assert image.shape == (16, 16, 3)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
    wanted = tiny_family.encode(pixels)[0].numpy()
    stored = shards.read_latents(paths[0])
    assert np.allclose(stored[3], wanted, atol=2e-3)
    assert stored.dtype == np.float16
    assert np.isnan(shards.read_latents(paths[1])[1]).all()


def test_prompts_are_embedded_once_a_shard(
    whole: dict[str, bytes], tiny_family: Diffusion, tmp_path: Path
) -> None:
    put_back(tmp_path, whole)
    shard = shards.shard_paths(tmp_path / "scored")[0]
    found = embeddings.read(embeddings.path_for(tmp_path / "embeddings", shard))
    wanted = embeddings.stored(tiny_family.encode_prompts(["a red circle 1"]))
    for name, value in wanted.items():
        assert found.prompts[name].shape[0] == 3
        assert torch.allclose(found.prompts[name][1].float(), value[0].float(), atol=1e-3)


def test_a_killed_import_goes_on_to_the_same_bytes(
    whole: dict[str, bytes],
    rated: Path,
    tiny_family: Diffusion,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Killed(BaseException):
        pass

    written: list[Path] = []
    write = shards.write_shard

    def until_killed(path: Path, table: Any) -> None:
        if len(written) == 2:
            raise Killed
        written.append(path)
        write(path, table)

    with monkeypatch.context() as patch:
        patch.setattr(shards, "write_shard", until_killed)
        with pytest.raises(Killed):
            import_into(tmp_path, tiny_family, rated)
    assert contents(tmp_path) != whole
    summary = import_into(tmp_path, tiny_family, rated)
    assert (summary.made, summary.rated) == (2, 0)
    assert contents(tmp_path) == whole
    assert import_into(tmp_path, tiny_family, rated).made == 0


def test_damage_is_made_good(
    whole: dict[str, bytes], rated: Path, tiny_family: Diffusion, tmp_path: Path
) -> None:
    put_back(tmp_path, whole)
    paths = shards.shard_paths(tmp_path / "scored")
    paths[0].write_bytes(paths[0].read_bytes()[:-9])
    embeddings.path_for(tmp_path / "embeddings", paths[1]).unlink()
    pq.write_table(pa.table({"id": ["x"]}), paths[2])
    (tmp_path / "scored" / manifest.NAME).unlink()
    assert import_into(tmp_path, tiny_family, rated).made == 3
    aside = tmp_path / ".scored.aside"
    assert len(list(aside.iterdir())) == 3  # truncated, without embeddings, foreign
    shutil.rmtree(aside)
    assert contents(tmp_path) == whole


def test_other_pictures_and_ratings_change_their_own_shards_only(
    whole: dict[str, bytes], rated: Path, tiny_family: Diffusion, tmp_path: Path
) -> None:
    put_back(tmp_path / "made", whole)
    source = write_rated(tmp_path / "images")
    assert (
        import_into(tmp_path / "made", tiny_family, source).made == 0
    )  # the path of a source is not part of its fingerprint
    old = source / "03.png"
    Image.open(old).rotate(90, expand=True).save(old)
    os.utime(old, (0, 0))
    assert import_into(tmp_path / "made", tiny_family, source).made == 1
    table = source / "metadata.csv"
    table.write_text(table.read_text().replace("19.png,a red circle 9,", "19.png,a red circle 9,1"))
    latents = shards.read_latents(tmp_path / "made/scored" / shards.shard_name(3, 4))
    summary = import_into(tmp_path / "made", tiny_family, source)
    assert (summary.made, summary.rated) == (0, 4)
    last = shards.shard_paths(tmp_path / "made/scored")[3]
    assert shards.read_shard(last, ["rating"])["rating"].to_pylist()[-1] > 10
    assert np.array_equal(shards.read_latents(last), latents)


def test_prompts_cross_shards_only_when_they_must(tmp_path: Path) -> None:
    lines = [f"{n}.png,p{n // 5},1" for n in range(10)] + [f"x{n}.png,many,1" for n in range(9)]
    (tmp_path / "r.csv").write_text("\n".join(["file,prompt,rating", *lines]))
    images = ratings.read(Source(str(tmp_path / "r.csv"))).images
    parts = import_ratings.split(images, 6)
    assert [len(part) for part in parts] == [5, 5, 6, 3]
    assert [image for part in parts for image in part] == images


def test_imported_and_generated_shards_do_not_replace_each_other(
    whole: dict[str, bytes],
    rated: Path,
    tiny_family: Diffusion,
    tiny_panel: Any,
    tmp_path: Path,
) -> None:
    put_back(tmp_path / "imported", whole)
    assert origin.of(tmp_path / "imported/scored") == "imported"
    assert origin.of(tmp_path / "nowhere") is None
    with pytest.raises(InputError, match="holds imported ratings, which `tgo score` would"):
        origin.require(tmp_path / "imported/scored", "generated")
    with pytest.raises(InputError, match=r"holds no imported ratings, .* run `tgo import` first"):
        origin.require_ratings(tmp_path / "nowhere")
    score_into(tmp_path / "made", tiny_family, tiny_panel)
    with pytest.raises(InputError, match="holds generated images, which `tgo import` would"):
        import_into(tmp_path / "made", tiny_family, rated)


def test_pictures_are_cut_around_their_middle(tmp_path: Path) -> None:
    wide = Image.new("RGB", (60, 20), "red")
    wide.paste((0, 0, 255), (20, 0, 40, 20))
    wide.save(tmp_path / "wide.png")
    image = import_images.fit(ratings.Pictures(), tmp_path / "wide.png", Size(10, 10)).image
    assert image is not None
    assert image.shape == (3, 10, 10)
    assert image[2, 2:-2, 2:-2].min() > 250
    assert image[0, 2:-2, 2:-2].max() < 5


def test_pictures_go_to_the_size_nearest_to_their_shape(
    tiny_generator: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "pictures"
    source.mkdir()
    shapes = [(40, 40), (62, 40), (40, 64), (44, 40), (90, 60), (31, 48)]
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side: shown, it is high
    for number, (width, height) in enumerate(shapes * 2):
        picture = colours(height, width, seed=number)
        picture.save(source / f"{number:02d}.png", exif=exif if number == 7 else None)
    (source / "12.png").write_bytes(b"no picture")
    lines = [f"{number:02d}.png,a red circle {number // 3},{number}" for number in range(13)]
    (source / "metadata.csv").write_text("\n".join(["file_name,prompt,rating", *lines]))
    sizes = [[16, 16], [24, 16], [16, 24]]
    family = load_family(tiny_generator, resolution=sizes)
    summary = import_into(tmp_path / "made", family, source, rows_per_shard=3)
    assert (summary.shards, summary.images, summary.failed) == (5, 13, 1)
    found: dict[Any, list[str]] = {}
    for path in shards.shard_paths(tmp_path / "made/scored"):
        table = shards.read_shard(path)
        pictures = [row["bytes"] for row in table["image"].to_pylist() if row]
        (size,) = {Image.open(io.BytesIO(data)).size for data in pictures}
        found.setdefault(size, []).extend(table["id"].to_pylist())
        latents = shards.read_latents(path)
        assert latents.shape[1:] == family.latent_shapes[Size(*size)]
        usable = np.array(table["status"].to_pylist()) == "ok"
        assert np.isfinite(latents[usable]).all()
        assert np.isnan(latents[~usable]).all()
    assert found == {
        (16, 16): [f"{n:02d}.png" for n in (0, 3, 6, 9, 12)],
        (24, 16): [f"{n:02d}.png" for n in (1, 4, 10)],
        (16, 24): [f"{n:02d}.png" for n in (2, 5, 7, 8, 11)],
    }
    finished = contents(tmp_path / "made")
    make = Job.make
    calls = iter(range(3))

    def failing(job: Job, shard: Any) -> None:
        if next(calls) == 2:
            raise KeyboardInterrupt
        make(job, shard)

    monkeypatch.setattr(Job, "make", failing)
    with pytest.raises(KeyboardInterrupt):
        import_into(tmp_path / "again", family, source, rows_per_shard=3)
    monkeypatch.undo()
    assert import_into(tmp_path / "again", family, source, rows_per_shard=3).made == 3
    assert contents(tmp_path / "again") == finished


def test_a_picture_is_what_its_rater_saw(tmp_path: Path) -> None:
    sideways = Image.new("RGB", (20, 10), "blue")
    sideways.paste((255, 0, 0), (0, 0, 10, 10))
    exif = Image.Exif()
    exif[0x0112] = (
        6  # rotated by 90 degrees: the left edge in the file is the upper edge on the screen
    )
    sideways.save(tmp_path / "turned.jpg", exif=exif, quality=100)
    image = import_images.fit(ratings.Pictures(), tmp_path / "turned.jpg", Size(10, 20)).image
    assert image is not None
    assert image[0, 2].min() > 200
    assert image[2, -2].min() > 200
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    image = import_images.fit(ratings.Pictures(), tmp_path / "clear.png", Size(8, 8)).image
    assert image is not None
    assert image.min() == 255


def test_a_source_without_one_usable_picture_changes_nothing(
    whole: dict[str, bytes], tiny_family: Diffusion, tmp_path: Path
) -> None:
    put_back(tmp_path / "run", whole)
    table = tmp_path / "r.csv"
    table.write_text("file,prompt,rating\nhttps://example.org/a.png,a,1\n../b.png,b,2\n")
    with pytest.raises(InputError, match=r"none of its 2 pictures can be read .* on the web"):
        import_into(tmp_path / "run", tiny_family, table)
    assert contents(tmp_path / "run") == whole
    (tmp_path / "a.png").write_bytes(b"no picture")
    table.write_text("file,prompt,rating\na.png,a,1\n")
    with pytest.raises(InputError, match="none of its 1 pictures could be used"):
        import_into(tmp_path / "fresh", tiny_family, table)
    assert not shards.present(tmp_path / "fresh/scored")


def test_raters_and_errors_reach_the_shards(tiny_family: Diffusion, tmp_path: Path) -> None:
    write_rated(tmp_path / "images")
    rows = (tmp_path / "images/metadata.csv").read_text().splitlines()
    head, stars = rows[0] + ",rater", [row for row in rows[1:] if not row.startswith("00.png")]
    lines = [head, *(f"{row},{who}" for row in stars for who in ("ada", "bob"))]
    (tmp_path / "images/metadata.csv").write_text("\n".join(lines))
    import_into(tmp_path, tiny_family, tmp_path / "images")
    path = shards.shard_paths(tmp_path / "scored")[0]
    table = shards.read_shard(path, ["n_ratings", "rating_error"]).to_pydict()
    assert set(table["n_ratings"]) == {2}
    assert set(table["rating_error"]) == {0.0}  # both say the same of every image
    facts = shards.read_metadata(path)["tgo.rewards"]["rating"]
    assert (facts["raters"], facts["alpha"], facts["random_raters"]) == (2, 1.0, {})


def test_kept_columns_and_changed_ones(tiny_family: Diffusion, tmp_path: Path) -> None:
    Image.new("RGB", (16, 16), "red").save(tmp_path / "a.png")
    table = tmp_path / "r.csv"

    def bring(medium: str) -> import_ratings.Summary:
        table.write_text(f"file,prompt,rating,medium\na.png,a,1,{medium}\n")
        found = ratings.read(Source(str(table), keep=("medium",)))
        return import_ratings.import_ratings(
            tiny_family,
            found,
            tmp_path / "scored",
            embeddings_folder=tmp_path / "embeddings",
            batch_size=4,
            rows_per_shard=6,
        )

    assert bring("oil").made == 1
    assert bring("ink").rated == 1
    (path,) = shards.shard_paths(tmp_path / "scored")
    assert shards.read_shard(path, ["medium", "rating"]).to_pylist() == [
        {"medium": "ink", "rating": 1.0}
    ]
    card = dataset_card.render(tmp_path / "scored")
    assert "| `medium` | as in the imported table |" in card
    assert "(several of one joined: mean)" in card


@pytest.mark.slow
def test_from_ratings_to_a_tuned_model(
    tiny_generator: Path,
    tiny_rewards: dict[str, str],
    rated: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Import, label, train, evaluate, report: no reward model is asked before the evaluation."""
    from tgo.pipeline.evaluation import evaluate
    from tgo.pipeline.labelling import label
    from tgo.pipeline.page import report
    from tgo.pipeline.scoring import score
    from tgo.trainer import train

    rewards = {name: tiny_rewards[name] for name in ("clip", "aesthetic")}
    workspace.fill(tmp_path, tiny_generator, rewards)
    workspace.change(tmp_path, {"label": {"reward": "rating"}, "score": {"prompts": 1}})
    monkeypatch.chdir(tmp_path)
    chosen = settings.load("params.yaml")
    caplog.set_level("INFO", "tgo")
    done = CliRunner().invoke(app, ["import", str(rated)])
    assert done.exit_code == 3  # two of the pictures are broken
    assert "20 images of 10 prompts, 21 ratings (stars)" in caplog.text
    facts = label.run(chosen)
    assert (facts["reward"], facts["unit"], facts["n"]) == ("rating", "stars", 18)
    assert facts["excluded"] == 2
    verify.run(chosen)
    before = contents(layout.SCORED)
    score.run(chosen)  # the first stage of `dvc repro`
    assert contents(layout.SCORED) == before
    with pytest.raises(InputError, match=r"score\.tables\.people: scores join generated images"):
        score.run(settings.load("params.yaml", ["score.tables.people=scores.csv"]))
    train.run(chosen)
    assert (layout.TUNED / "model_index.json").is_file()
    assert {"clip", "aesthetic"} <= evaluate.run(chosen)["seen"].keys()
    page = report.run(chosen).read_text()
    assert "rating (stars)" in page
    assert json.loads(layout.EVALUATION.read_text())["seen"]["clip"]["base"] is not None
