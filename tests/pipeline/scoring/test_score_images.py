"""Scoring images that are already there: every file gets its row, and no run is lost."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from tests.rewards.awkward import colours, write_pictures
from tgo.pipeline.cli import app
from tgo.pipeline.config.settings import Reward
from tgo.pipeline.errors import InputError
from tgo.pipeline.scoring import list_rewards, score_images
from tgo.pipeline.scoring.score_images import score_images as score_all
from tgo.pipeline.sources.image_table import Source
from tgo.rewards.panel import Panel
from tgo.rewards.pictures import decode

BAD = {"broken.png": b"\x89PNG\r\n\x1a\n", "empty.jpg": b"", "notes.txt": b"no image"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Fourteen pictures of every kind and three files that are none, with prompts beside them."""
    place = tmp_path / "images"
    write_pictures(place / "some")
    for name, data in BAD.items():
        (place / name).write_bytes(data)
    names = sorted(p.relative_to(place).as_posix() for p in place.rglob("*") if p.is_file())
    lines = [{"file_name": name, "prompt": f"a red {name}"} for name in names]
    text = "".join(f"{json.dumps(line)}\n" for line in lines if "tall" not in line["file_name"])
    (tmp_path / "prompts.jsonl").write_text(text)
    return place


def prompts(folder: Path) -> Path:
    return folder.parent / "prompts.jsonl"


def test_every_file_has_a_row(folder: Path, tiny_panel: Panel) -> None:
    table = score_all(folder, prompts(folder), rewards=tiny_panel, batch_size=4)
    rows = {row["id"]: row for row in table.to_pylist()}
    assert len(rows) == 17
    for name, row in rows.items():
        failed = name in BAD or "tall" in name
        assert (row["status"], bool(row["error"])) == ("failed" if failed else "ok", failed)
        assert (row["clip"] is None) == (row["aesthetic"] is None) == failed
    assert rows["some/tall.jpg"]["error"] == "no prompt"
    assert rows["empty.jpg"]["error"] == "empty: zero bytes"
    row = rows["some/rgba.png"]
    alone = tiny_panel.score([decode(folder / "some/rgba.png")], [row["prompt"]])
    assert row["clip"] == pytest.approx(float(alone["clip"]), abs=2e-5)
    assert score_images.summary(table).startswith("13 images scored, 4 failed (the first: ")


def test_columns_carry_what_decided_them(folder: Path, tiny_panel: Panel, tmp_path: Path) -> None:
    output = tmp_path / "scores.parquet"
    score_all(folder, prompts(folder), rewards=tiny_panel, output=output)
    field = pq.read_schema(output).field("clip")
    told = json.loads(field.metadata[b"tgo.reward"])
    assert told["model"] == "openai/clip-vit-large-patch14"
    assert told["version"] == "unpublished"
    assert {"checkpoint_sha256", "unit", "usual_range", "dtype", "preprocessing"} <= told.keys()
    assert told["libraries"]["torch"] == torch.__version__.split("+")[0]


class Killed(BaseException):
    pass


def test_a_killed_run_goes_on_where_it_was(
    folder: Path, tiny_panel: Panel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score_images, "PART", 5)
    whole, killed = tmp_path / "whole.parquet", tmp_path / "killed.parquet"
    score_all(folder, prompts(folder), rewards=tiny_panel, output=whole, batch_size=2)
    calls: list[int] = []
    score = Panel.score

    def until_killed(self: Panel, *arguments: object) -> dict[str, torch.Tensor]:
        calls.append(1)
        if len(calls) == 4:
            raise Killed
        return score(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Panel, "score", until_killed)
    with pytest.raises(Killed):
        score_all(folder, prompts(folder), rewards=tiny_panel, output=killed, batch_size=2)
    assert not killed.exists()
    before = len(calls)
    score_all(folder, prompts(folder), rewards=tiny_panel, output=killed, batch_size=2)
    assert 0 < len(calls) - before < 9
    assert killed.read_bytes() == whole.read_bytes()
    assert not (tmp_path / ".killed.parquet.parts").exists()


def test_parts_of_other_images_are_not_kept(
    folder: Path, tiny_panel: Panel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score_images, "PART", 5)
    monkeypatch.setattr(score_images.ownership, "remove_folder", lambda *arguments: None)
    output = tmp_path / "scores.parquet"
    first = score_all(folder, prompts(folder), rewards=tiny_panel, output=output)
    colours(48, 48, seed=9).save(folder / "some/square.png")
    second = score_all(folder, prompts(folder), rewards=tiny_panel, output=output)
    changed = [
        one["id"]
        for one, two in zip(first.to_pylist(), second.to_pylist(), strict=True)
        if one["clip"] != two["clip"]
    ]
    assert changed == ["some/square.png"]


def test_any_dataset(
    folder: Path, tiny_panel: Panel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    names = ["some/square.png", "some/palette.png", "broken.png"]
    images = [{"bytes": (folder / name).read_bytes(), "path": None} for name in names]
    texts = ["a red circle", "a square", "nothing"]
    features = datasets.Features(
        {
            "picture": datasets.Image(decode=False),
            "caption": datasets.Value("string"),
            "number": datasets.Value("int64"),
        }
    )
    rows = {"picture": images, "caption": texts, "number": [1, 2, 3]}
    made = datasets.Dataset.from_dict(rows, features=features)
    made.to_parquet(tmp_path / "set.parquet")
    place = tmp_path / "set.parquet"
    columns = {"image": "picture", "prompt": "caption"}
    table = score_all(Source(str(place), columns=columns), rewards=tiny_panel)
    assert table["status"].to_pylist() == ["ok", "ok", "failed"]
    expected = tiny_panel.score([decode(folder / name) for name in names[:2]], texts[:2])
    assert table["clip"].to_pylist()[:2] == pytest.approx(expected["clip"].tolist(), abs=2e-5)
    with pytest.raises(InputError, match="no column 'images', but caption, number, picture"):
        score_all(Source(str(place), columns={"image": "images"}), rewards=tiny_panel)
    with pytest.raises(InputError, match="holds no pictures"):
        score_all(Source(str(place), columns={"image": "number"}), rewards=tiny_panel)


def test_a_score_that_is_no_number_is_an_error_with_its_id(
    folder: Path, tiny_panel: Panel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Panel, images: list[object], texts: list[str]) -> dict[str, torch.Tensor]:
        values = torch.tensor([float("nan") if "cmyk" in text else 0.0 for text in texts])
        return dict.fromkeys(self.names, values)

    monkeypatch.setattr(Panel, "score", broken)
    with pytest.raises(InputError, match=r"some/cmyk\.jpg: its clip score is nan"):
        score_all(folder, prompts(folder), rewards=tiny_panel)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("p.txt", "only one line\n", "1 lines for 17 files"),
        ("p.csv", "file_name,prompt\nabsent.png,a\n", "names absent.png, which is not in"),
        ("p.csv", "file_name,prompt\nempty.jpg,a\nempty.jpg,b\n", "empty.jpg a second time"),
        ("p.csv", "name,words\nempty.jpg,a\n", "line 2: needs a file name under one of"),
        ("p.jsonl", "{", "line 1: not valid JSON"),
        ("p.doc", "", "not a list of prompts"),
    ],
)
def test_bad_prompts(name: str, text: str, words: str, folder: Path, tiny_panel: Panel) -> None:
    path = folder.parent / name
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        score_all(folder, path, rewards=tiny_panel)


def test_prompts_by_line_and_by_table(tmp_path: Path, tiny_panel: Panel) -> None:
    place = tmp_path / "images"
    place.mkdir()
    for name in ("a.png", "b.png"):
        colours(40, 40).save(place / name)
    for name, text in (
        ("p.txt", "one\ntwo\n"),
        ("p.csv", 'file_name,prompt\nb.png,two\na.png,"one"\n'),
        ("p.tsv", "image\ttext\na.png\tone\nb.png\ttwo\n"),
    ):
        (tmp_path / name).write_text(text)
        table = score_all(place, tmp_path / name, rewards=tiny_panel)
        assert table["prompt"].to_pylist() == ["one", "two"]


def test_the_command(
    folder: Path, tiny_rewards: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "tgo")
    output = tmp_path / "scores.parquet"
    arguments = ["score-images", str(folder), "--prompts", str(prompts(folder)), "-o", str(output)]
    chosen = ["--reward", f"clip={tiny_rewards['clip']}", "--device", "cpu"]
    done = CliRunner().invoke(app, [*arguments, *chosen])
    assert done.exit_code == 3, done.output
    assert "13 images scored, 4 failed" in caplog.text
    table = pq.read_table(output)
    assert table.column_names == ["id", "prompt", "status", "error", "clip"]
    assert table.schema.field("clip").type == pa.float32()
    output.write_text("mine")
    again = CliRunner().invoke(app, [*arguments, *chosen])
    assert "was not written by this command" in str(again.exception)
    assert output.read_text() == "mine"


def test_the_old_name_names_the_new_one() -> None:
    done = CliRunner().invoke(app, ["rate", "images", "--prompts", "p.csv"])
    assert "is `tgo score-images` now" in str(done.exception)


def test_what_is_available(tiny_rewards: dict[str, str], tmp_path: Path) -> None:
    entries = {
        "clip": Reward(source=tiny_rewards["clip"]),
        "hpsv2": Reward(source=str(tmp_path / "absent")),
        "imagereward": Reward(source="THUDM/not-fetched"),
        "mine": Reward(module="docs/examples/compressibility.py"),
        "other": Reward(module="absent.py"),
        "aesthetic": Reward(source=str(tmp_path)),
    }
    rows = {row.name: row for row in list_rewards.rows(entries)}
    assert rows["clip"].state.startswith("ready: ")
    assert "no published file" in rows["clip"].state
    assert {name: row.status for name, row in rows.items()} == {
        "clip": "ready",
        "hpsv2": "missing",
        "imagereward": "on the hub",
        "mine": "ready",
        "other": "missing",
        "aesthetic": "missing",
        "pickscore": "not in params.yaml",
    }
    assert rows["hpsv2"].state == f"missing: {tmp_path / 'absent'}"
    assert rows["imagereward"].state == "on the hub; fetched when first loaded"
    assert rows["mine"].state == "ready; needs no checkpoint"
    assert rows["other"].state.startswith("missing: other: module absent.py")
    assert rows["aesthetic"].state.startswith("missing: sac+logos")
    assert rows["pickscore"].state == (
        "not in params.yaml; published as yuvalkirstain/PickScore_v1"
    )
