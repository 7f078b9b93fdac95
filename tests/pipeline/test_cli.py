from __future__ import annotations

import json
import re
import shutil
import signal
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import pytest
import typer
from typer.testing import CliRunner

from tgo.pipeline import cli
from tgo.pipeline.config import settings
from tgo.pipeline.errors import InputError

ROOT = Path(__file__).parents[2]
PARAMS = ROOT / "params.yaml"


class Done(NamedTuple):
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def tgo(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Runs the command line in this process, in a folder."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # pytest keeps its own handlers
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(cli, "check_source", lambda folder: None)

    def run(folder: Path, *words: str) -> Done:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["tgo", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        printed = capsys.readouterr()
        return Done(int(end.value.code or 0), printed.out, printed.err)

    return run


def test_version_and_help_come_from_the_package(tmp_path: Path, tgo: Callable[..., Done]) -> None:
    assert tgo(tmp_path, "--version").stdout == f"tgo {version('tgo')}\n"
    bare, asked = tgo(tmp_path), tgo(tmp_path, "--help")
    assert (bare.returncode, bare.stdout) == (0, asked.stdout)
    assert "score" in bare.stdout
    assert "--install-completion" in bare.stdout


def test_every_command_shows_a_sentence_and_an_example() -> None:
    main = typer.main.get_command(cli.app)
    assert isinstance(main, typer.core.TyperGroup)
    commands = {name: command for name, command in main.commands.items() if not command.hidden}
    assert {"score", "import", "round"} <= commands.keys()
    for name in commands:
        shown = CliRunner().invoke(cli.app, [name, "--help"], env={"COLUMNS": "200"}).stdout
        assert re.search(rf"Example: .*tgo {name}", shown), name


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (["evaluate", "--split", "test"], "'test' is not one of 'tests', 'validation'"),
        (["nothing"], "No such command 'nothing'"),
        (
            ["label", "--set", "label.percentile=ten"],
            "--set label.percentile=ten: label.percentile",
        ),
        (["label", "--set", "percentile"], "write a setting as group.key=value"),
        (["label", "--set", "=5"], "write a setting as group.key=value"),
        (["train", "--set", "train.lora.rank=4"], "--set 'train.lora={rank: 4}'"),
        (["sql", " "], "sql: the query is empty"),
        (["label", "--set", "label.percentil=1"], "did you mean label.percentile?"),
        (["train"], "data/labelled/threshold.json: is missing; run `tgo label`"),
        (["import", "nothing.csv"], "nothing.csv: no such file"),
    ],
)
def test_every_error_is_one_line_of_one_style(
    tmp_path: Path, tgo: Callable[..., Done], words: list[str], wrong: str
) -> None:
    shutil.copy(PARAMS, tmp_path)
    done = tgo(tmp_path, *words)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if "loading" not in line]
    assert line.startswith("tgo: error: ")
    assert wrong in line


def test_settings_change_for_one_call() -> None:
    changed = settings.load(PARAMS, ["train.steps=7", "label.reward={clip: 2, hpsv2: 1}"])
    assert changed.train.steps == 7
    assert changed.label.reward == {"clip": 2, "hpsv2": 1}
    with pytest.raises(InputError, match=r"--set train\.steps=0: train\.steps = 0 must be"):
        settings.load(PARAMS, ["train.steps=0"])


def test_a_project_elsewhere_is_worked_in(tmp_path: Path, tgo: Callable[..., Done]) -> None:
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "notes").mkdir()
    done = tgo(tmp_path / "notes", "label", "--params", "../params.yaml")
    assert f"working in {tmp_path}" in done.stderr
    assert "data/scored: holds no shards" in done.stderr
    assert not list((tmp_path / "notes").iterdir())


def test_rewards_fit_a_terminal_and_a_script(tmp_path: Path, tgo: Callable[..., Done]) -> None:
    shutil.copy(PARAMS, tmp_path)
    shown = tgo(tmp_path, "rewards")
    assert "clip: data/world/rewards/clip (built in)" in shown.stdout
    assert "loading" in shown.stderr
    quiet = tgo(tmp_path, "-q", "rewards", "--json")
    assert {row["name"] for row in json.loads(quiet.stdout)} >= {"clip", "pickscore"}
    assert not quiet.stderr
