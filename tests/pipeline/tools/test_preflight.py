"""A quick check reports what later stages would refuse, with the stages' own messages."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests import workspace
from tgo.pipeline.cli import app
from tgo.pipeline.config import settings
from tgo.pipeline.tools import preflight


def told(project: Path, changes: Mapping[str, Any]) -> list[str]:
    workspace.change(project, changes)
    return list(preflight.problems(settings.load(project / "params.yaml")))


def test_a_project_that_can_run_has_no_problems(small_project: Path) -> None:
    assert told(small_project, {}) == []
    assert CliRunner().invoke(app, ["plan"]).exit_code == 0


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"evaluate": {"judge": "nothing.here:judge"}}, "cannot be imported"),
        ({"evaluate": {"judge": "json:judge"}}, "has no attribute 'judge'"),
        (
            {
                "evaluate": {"judge": "tgo.data.world.truth:judge"},
                "generator": {"resolution": [[64, 64], [80, 48]]},
            },
            "generator.resolution: the gold judge cannot judge these images",
        ),
        ({"evaluate": {"prompts": 11}}, "holds 10 prompts, 11 are asked for"),
        ({"train": {"samples": {"prompts": 11, "every": 1}}}, "holds 10 prompts, 11 are asked"),
        ({"score": {"prompts": 11}}, "holds 10 prompts, 11 are asked for"),
        ({"score": {"tables": {"people": "none.csv"}}}, "none.csv: no such file"),
        ({"label": {"scope": "style"}}, "label.scope = 'style' is no column of the shards"),
        ({"label": {"proxy": "nowhere"}}, "label.proxy = nowhere: is not here"),
        ({"generator": {"family": "sdxl"}}, "set generator.family to diffusion"),
    ],
)
def test_what_a_stage_would_refuse(
    small_project: Path, changes: Mapping[str, Any], reason: str
) -> None:
    found = told(small_project, changes)
    assert found
    assert all(reason in line for line in found)
    plan = CliRunner().invoke(app, ["plan"])
    assert plan.exit_code == 2
    assert f"REFUSED    {found[0]}" in plan.output


def test_a_model_that_lacks_a_part_is_named(small_project: Path, tmp_path: Path) -> None:
    model = settings.load(small_project / "params.yaml").generator.model
    shutil.copytree(model, tmp_path / "half")
    shutil.rmtree(tmp_path / "half/vae")
    (found,) = told(small_project, {"generator": {"model": str(tmp_path / "half")}})
    assert "has no vae" in found
