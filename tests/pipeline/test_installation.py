from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tgo.pipeline.errors import InputError
from tgo.pipeline.installation import CODE, EXTRAS, check_source, explain_missing


def test_own_checkout_and_a_project_without_source_code_run(tmp_path: Path) -> None:
    """The code's own folder, and one that holds data only."""
    check_source(CODE.parent)
    check_source(tmp_path)


def test_copied_checkout_is_refused(tmp_path: Path) -> None:
    """A copy whose environment still names the first folder."""
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline/cli.py").write_text((CODE / "cli.py").read_text())
    with pytest.raises(InputError, match="make setup"):
        check_source(tmp_path)


def test_every_optional_package_is_brought_by_the_extra_named() -> None:
    """The table follows pyproject.toml; a missing package of no extra is a defect of ours."""
    project = tomllib.loads((CODE.parent / "pyproject.toml").read_text())["project"]
    for package, extra in EXTRAS.items():
        wanted = project["optional-dependencies"][extra]
        plain = package.replace("_", "")  # crowdkit comes in crowd-kit
        assert any(line.replace("-", "").startswith(plain) for line in wanted)
        remedy = explain_missing(ModuleNotFoundError(name=f"{package}.part"))
        assert remedy
        assert f"tgo[{extra}]" in remedy
    assert explain_missing(ModuleNotFoundError(name="tgo.mistake")) is None


def test_rewards_alone_load_neither_dvc_nor_plots_nor_the_pipeline() -> None:
    """`tgo.rewards` alone imports only what scoring needs."""
    script = "import sys, tgo.rewards.panel, tgo.rewards.registry; print(*sys.modules)"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"dvc", "matplotlib", "duckdb", "tensorboard", "diffusers", "peft"}
    assert not [name for name in done.stdout.split() if name.startswith(("tgo.pipe", "tgo.train"))]
