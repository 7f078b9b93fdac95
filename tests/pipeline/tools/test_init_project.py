from __future__ import annotations

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.workspace import ROOT
from tgo.pipeline.config import settings
from tgo.pipeline.errors import InputError
from tgo.pipeline.tools import preset
from tgo.pipeline.tools.init_project import CODE, create


def stages(folder: Path) -> dict:
    return YAML(typ="safe").load((folder / "dvc.yaml").read_text())["stages"]


def test_project_has_settings_presets_and_prompts(tmp_path: Path) -> None:
    """params.yaml loads, every preset fills it, the prompt lists are the shipped ones."""
    project = create(tmp_path / "new/project", world=False)
    settings.load(project / "params.yaml")
    for path in sorted((project / "presets").glob("*.yaml")):
        preset.apply(path.stem, project / "presets", project / "params.yaml")
    shipped = ROOT / "data/prompts/train.jsonl"
    assert (project / "data/prompts/train.jsonl").read_bytes() == shipped.read_bytes()
    assert not (project / "data/world").exists()


@pytest.mark.parametrize("world", [False, True])
def test_stages_are_the_shipped_ones_and_depend_on_data_alone(tmp_path: Path, world: bool) -> None:
    """Commands, parameters and outputs are unchanged; code is no dependency."""
    project = create(tmp_path / "project", world=world)
    made, shipped = stages(project), stages(ROOT)
    assert list(made) == list(shipped)
    for name, stage in made.items():
        kept = [path for path in stage["deps"] if (project / path).exists()]
        written = [path for path in stage["deps"] if path not in kept]
        assert not [path for path in written if path.startswith(CODE)]
        assert not [path for path in kept if path.endswith(".py")]
        assert {**stage, "deps": None} == {**shipped[name], "deps": None}
    assert ("data/world/diffusion" in made["score"]["deps"]) == world
    assert not list(tmp_path.glob(".tgo-init-*"))


def test_the_working_folder_becomes_a_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = create(tmp_path / "elsewhere", world=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    create(Path(), world=False)
    names = sorted(path.name for path in elsewhere.iterdir())
    assert sorted(path.name for path in Path().iterdir()) == names
    assert (tmp_path / "here/dvc.yaml").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "here"]


def test_what_is_there_already_is_left_alone(tmp_path: Path) -> None:
    """A folder with a file, and a file in the folder's place."""
    (tmp_path / "notes.txt").write_text("mine")
    for folder in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(InputError, match="new or empty"):
            create(folder, world=False)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_dvc_needs_no_git_where_there_is_none(tmp_path: Path) -> None:
    """A folder in a git repository keeps DVC's default."""
    outside = create(tmp_path / "outside", world=False)
    assert "no_scm = true" in (outside / ".dvc/config").read_text()
    (tmp_path / "repository/.git").mkdir(parents=True)
    inside = create(tmp_path / "repository/project", world=False)
    assert "no_scm" not in (inside / ".dvc/config").read_text()
