"""Scores that already exist join the shards: nothing is generated or scored again for them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tests import workspace
from tgo.pipeline import layout
from tgo.pipeline.cli import app
from tgo.pipeline.config import settings
from tgo.pipeline.errors import InputError
from tgo.pipeline.scoring.score_tables import ScoreTables, score_columns
from tgo.pipeline.storage import shards


def run(*words: str) -> str:
    found = CliRunner().invoke(app, list(words))
    assert found.exit_code == 0, f"{found.output}\n{found.exception!r}"
    return found.output


@pytest.fixture
def project(small_project: Path) -> Path:
    """After stage one."""
    run("score")
    return small_project


def stored(*columns: str) -> dict[str, list[object]]:
    tables = [shards.read_shard(path, columns) for path in shards.shard_paths(layout.SCORED)]
    return {name: [v for table in tables for v in table[name].to_pylist()] for name in columns}


def test_a_table_joins_without_new_images_or_scores(project: Path) -> None:
    before = stored("id", "image", "latents", "clip")
    ids = [str(key) for key in before["id"]]
    lines = [f"{key},{n / 10},{n % 2}" for n, key in enumerate(ids[:-1])]
    (project / "scores.csv").write_text("\n".join(["id,people,liked", *lines, "other,1,1"]))
    told = run("score", "--from", "scores.csv")
    assert "score.tables: {people: scores.csv, liked: scores.csv}" in told
    assert "(0 made, 4 completed, 0 kept)" in told
    assert "has scores of 19 of 20 images, and 1 ids of none" in told
    after = stored("id", "image", "latents", "clip", "people")
    assert {name: after[name] for name in before} == before
    expected = [np.float32(n / 10) for n in range(19)]
    assert after["people"] == [*expected, None]
    facts = shards.read_metadata(shards.shard_paths(layout.SCORED)[0])["tgo.rewards"]["people"]
    assert (facts["model"], facts["version"]) == ("scores.csv", "table")

    tables = {"people": "scores.csv", "liked": "scores.csv"}
    workspace.change(project, {"score": {"tables": tables}})
    assert "(0 made, 0 completed, 4 kept)" in run("score")
    mixed = {"reward": {"people": 2.0, "clip": 1.0}, "standardise": "z-score", "missing": "exclude"}
    workspace.change(project, {"label": mixed})
    run("label")
    record = json.loads(layout.THRESHOLD.read_text())
    assert record["reward"] == "2 people + 1 clip"
    assert (record["n"], record["excluded"]) == (19, 1)
    run("train", "--set", "train.samples=null")
    run("evaluate")  # by the reward model: a table has no scores of new images
    assert set(json.loads(layout.EVALUATION.read_text())["seen"]) == {"clip"}

    (project / "one.csv").write_text(f"id,liked\n{ids[0]},1\n")
    assert "score.tables: {mine: one.csv}" in run("score", "--from", "mine=one.csv")
    (project / "scores.csv").write_text(f"id,people,liked\n{ids[0]},7,1\n")
    assert "(0 made, 4 completed, 0 kept)" in run("score")
    assert stored("people")["people"] == [7.0, *[None] * 19]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("id,people\na,1\na,2\n", "line 3: id 'a' is there twice"),
        ("id,people\na,many\n", "line 2: people is 'many'; write a finite number"),
        ("id,people\na,inf\n", "line 2: people is 'inf'"),
        ("key,people\na,1\n", "has no column 'id'"),
        ("id,persons,age\na,1,2\n", "has no column 'people', but persons, age"),
        ("id,word\na,b\n", "has no column of numbers"),
    ],
)
def test_a_table_that_cannot_be_used_is_named(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "scores.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=reason):
        ScoreTables({"people": str(path)})
    with pytest.raises(InputError, match="no such file"):
        ScoreTables({"people": str(tmp_path / "none.csv")})


def test_ratings_of_several_raters_are_averaged(tmp_path: Path) -> None:
    """The answers to `tgo ask` join as they are."""
    path = tmp_path / "metadata.jsonl"
    rows = [
        {"id": "a", "rater": "ada", "rating": 5, "part": 1, "prompt": "x"},
        {"id": "a", "rater": "bob", "rating": 2, "part": 1, "prompt": "x"},
        {"id": "b", "rater": "bob", "rating": 1, "part": 1, "prompt": "y"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert score_columns(path) == ["rating"]
    found = ScoreTables({"people": str(path)}).columns(["b", "a", "c"], ["people"])
    assert found["people"].to_pylist() == [1.0, 3.5, None]


def test_a_table_of_other_images_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_text("id,people\nx,1\n")
    with pytest.raises(InputError, match="names none of the images"):
        ScoreTables({"people": str(path)}).check_ids(["a", "b"])


@pytest.mark.parametrize(
    ("tables", "reason"),
    [
        ({"prompt": "x.csv"}, "score.tables.prompt: is the name of a column"),
        ({"clip": "x.csv"}, "score.tables.clip: is a reward model, too"),
    ],
)
def test_names_that_collide_are_refused(
    tiny_generator: Path, tmp_path: Path, tables: dict[str, str], reason: str
) -> None:
    workspace.fill(tmp_path, tiny_generator, {"clip": "somewhere"})
    workspace.change(tmp_path, {"score": {"tables": tables}})
    with pytest.raises(InputError, match=reason):
        settings.load(tmp_path / "params.yaml")
