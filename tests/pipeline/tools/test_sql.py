"""DuckDB over the shards: what the tables hold, and one line for whatever is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.scores import make_rule, write_scored
from tgo.pipeline.cli import app
from tgo.pipeline.errors import InputError
from tgo.pipeline.labelling import label
from tgo.pipeline.tools import sql


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Twenty images with scores and labels."""
    rows: dict[str, Any] = {
        "image": [{"bytes": b"png", "path": "a.png"}] * 20,
        "latents": [[0.5] * 8] * 20,
    }
    write_scored(tmp_path / "scored", np.arange(20), **rows)
    label.label_folder(tmp_path / "scored", tmp_path / "labelled", make_rule(), seed=0)
    return tmp_path


def ask(data: Path, query: str) -> list[tuple[Any, ...]]:
    answer = sql.ask(query, scored=data / "scored", labelled=data / "labelled")
    return list(answer.rows())


def test_scores_and_labels_are_tables(data: Path) -> None:
    assert ask(data, "select count(*), max(clip) from scored") == [(20, 19.0)]
    joined = "select label, count(*) from scored join labelled using (id) group by 1 order by 1"
    assert ask(data, joined) == [(0, 9), (1, 11)]


def test_pictures_and_codes_are_read_by_name_only(data: Path) -> None:
    answer = sql.ask("from scored", scored=data / "scored", labelled=data / "labelled")
    assert not {"image", "latents"} & set(answer.columns)
    assert ask(data, "select image.bytes, len(latents) from images limit 1") == [(b"png", 8)]


@pytest.mark.parametrize(
    ("query", "part"),
    [
        ("selec 1", 'sql: Parser Error: syntax error at or near "selec"'),
        ("select nothing from scored", 'Referenced column "nothing" not found'),
        ("select * from elsewhere", "Table with name elsewhere does not exist"),
        (
            "select * from data",
            "Table with name data does not exist",
        ),  # a variable name of the code is no table
        ("select error('x ' || id) from scored", "sql: Invalid Input Error: x r"),
    ],
)
def test_bad_sql_is_one_line(data: Path, query: str, part: str) -> None:
    with pytest.raises(InputError) as caught:
        ask(data, query)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_table_that_is_not_there_yet_names_its_stage(tmp_path: Path) -> None:
    write_scored(tmp_path / "scored", np.arange(6))
    with pytest.raises(InputError, match=r"labelled: holds no shards.*run `tgo label` first"):
        ask(tmp_path, "select * from labelled")
    with pytest.raises(InputError, match=r"nowhere: holds no shards.*run `tgo score` first"):
        sql.ask("from scored", scored=tmp_path / "nowhere", labelled=tmp_path)


def test_answers_as_tables_lines_and_csv(data: Path) -> None:
    folders = ["--scored", str(data / "scored"), "--labelled", str(data / "labelled")]
    runner = CliRunner()
    few = runner.invoke(app, ["sql", "select id, clip from scored", "--rows", "2", *folders]).stdout
    assert [line.split() for line in few.splitlines()[:3]] == [
        ["id", "clip"], ["r0", "0"], ["r1", "1"]
    ]  # fmt: skip
    assert "the first 2 rows" in few
    columns = ", ".join(f"'{'long ' * 4}' as column{n}" for n in range(7))
    wide = runner.invoke(app, ["sql", f"select {columns}", *folders]).stdout
    assert len(wide.splitlines()) == 7
    text = runner.invoke(app, ["sql", "select id, null from scored", "--csv", *folders]).stdout
    assert text.splitlines()[:2] == ["id,NULL", "r0,"]
    assert len(text.splitlines()) == 21


def test_a_spreadsheet_takes_no_cell_for_a_formula(capsys: pytest.CaptureFixture[str]) -> None:
    query = "select '=1+1' as a, ' @x' as b, '-2' as c, -2 as d, 'plain' as e"
    sql.write_csv(sql.ask(query, scored=Path("none"), labelled=Path("none")))
    assert capsys.readouterr().out == "a,b,c,d,e\n'=1+1,' @x,'-2,-2,plain\n"
