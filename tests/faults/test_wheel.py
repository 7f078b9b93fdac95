"""The package as a stranger gets it: a wheel, an environment of its own, an empty folder."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.stage_one import contents
from tests.workspace import ROOT, SMALL, change

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path, path: Path | None = None) -> str:
    """Output of a command that must succeed, with the programs of folder `path` first."""
    environment = {**os.environ, "PATH": f"{path}:{os.environ['PATH']}"} if path else None
    done = subprocess.run(
        command, cwd=cwd, env=environment, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the files that git tracks, outside the repository."""
    source = tmp_path_factory.mktemp("source")
    tracked = run("git", "ls-files", "-z", cwd=ROOT).split("\0")
    for name in filter(None, tracked):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).symlink_to(ROOT / name)
    out = tmp_path_factory.mktemp("wheel")
    offline = ("--no-deps", "--no-index", "--no-build-isolation")
    run(sys.executable, "-m", "pip", "wheel", "-q", *offline, "-w", out, source, cwd=out)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bin/ of an environment with the wheel, and with this one's packages but not its tgo."""
    environment = tmp_path_factory.mktemp("environment") / "venv"
    run(sys.executable, "-m", "venv", environment, cwd=environment.parent)
    python = environment / "bin/python"
    run(python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel, cwd=environment)
    here = sysconfig.get_path("purelib")
    packages = Path(
        run(python, "-c", "import site; print(site.getsitepackages()[0])", cwd=wheel.parent).strip()
    )
    (packages / "others.pth").write_text(f"{here}\n")
    script = Path(sys.executable).with_name("dvc").read_text().splitlines()
    (environment / "bin/dvc").write_text("\n".join([f"#!{python}", *script[1:]]))
    (environment / "bin/dvc").chmod(0o755)
    return environment / "bin"


def test_wheel_takes_one_name_in_site_packages(wheel: Path) -> None:
    """`tgo`, and not `data`, `pipeline` or `tests`, which others have too."""
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"tgo"}
    assert not [
        name for name in names if name.startswith(("tgo/tests", "tgo/benchmarks", "tgo/setup"))
    ]


def test_new_project_runs_from_prompts_to_report(programs: Path, tmp_path: Path) -> None:
    """The commands of the README; no source code lies in the project."""
    run(programs / "tgo", "init", "project", "--world", cwd=tmp_path)
    project = tmp_path / "project"
    origin = run(
        programs / "python", "-c", "import tgo.pipeline as p; print(p.__path__)", cwd=project
    )
    assert str(programs.parent) in origin
    change(project, {**SMALL, "label": {"reward": "pickscore"}})
    run(programs / "dvc", "repro", cwd=project, path=programs)
    assert (project / "reports/index.html").stat().st_size > 10_000
    assert (project / "models/tuned/model_index.json").is_file()
    before = contents(project / "data/scored")
    assert "up to date" in run(programs / "dvc", "repro", cwd=project, path=programs)
    assert contents(project / "data/scored") == before
