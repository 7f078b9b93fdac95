"""`tgo clean` lists what was set aside and removes what tgo wrote, on request alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from tgo.pipeline.commands.project import app
from tgo.pipeline.storage import aside


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which a checkpoint and a file of somebody else's were set aside."""
    monkeypatch.chdir(tmp_path)
    kinds: dict[str, aside.Kind] = {
        "checkpoints/step-1": "superseded",
        "scored/notes.txt": "foreign",
    }
    for name, kind in kinds.items():
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True)
        path.write_text("12345")
        aside.set_aside([path], path.parent, "seed was 1", kind=kind)
    return tmp_path / "data"


def kept(data: Path) -> list[str]:
    return sorted(path.name for path in data.rglob("*") if path.name in ("step-1", "notes.txt"))


def test_it_lists_and_removes_nothing_unasked(project: Path) -> None:
    told = CliRunner().invoke(app, ["clean"])
    assert told.exit_code == 0
    assert "seed was 1" in told.output
    assert "5 B could be freed" in told.output
    assert kept(project) == ["notes.txt", "step-1"]


def test_it_removes_what_tgo_wrote_and_nothing_else(project: Path) -> None:
    assert "5 B freed" in CliRunner().invoke(app, ["clean", "--yes"]).output
    assert kept(project) == ["notes.txt"]
    assert "nothing to remove" in CliRunner().invoke(app, ["clean"]).output
