"""The commands around data, as they are typed."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.workspace import ROOT
from tgo.pipeline.cli import app
from tgo.pipeline.errors import InputError

RUNNER = CliRunner()


def test_prompts_are_checked_by_name_or_by_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "list.txt"
    path.write_text("a\n\nb\n")
    told = RUNNER.invoke(app, ["prompts", str(path)]).stdout
    assert told == (f"{path}: 2 prompts\n  {path}: 1 without a prompt left out (lines 2)\n")
    monkeypatch.chdir(ROOT)
    told = RUNNER.invoke(app, ["prompts"]).stdout
    assert "data/prompts/train.jsonl: 2,048 prompts in 3 domains" in told
    assert len(told.splitlines()) == 5


def test_a_format_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.tsv").write_text("prompt\na\n")
    result = RUNNER.invoke(app, ["prompts", str(tmp_path / "list.tsv"), "--format", "partiprompts"])
    assert isinstance(result.exception, InputError)
    assert "has no column 'Prompt', but prompt" in str(result.exception)
