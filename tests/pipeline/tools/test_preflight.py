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
from tgo.rewards import registry
from tgo.rewards.errors import CheckpointError

LORA = {"rank": 4, "alpha": 4.0, "targets": None}


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


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"generator": {"quantization": "nf4"}, "train": {"lora": LORA}}, "needs a GPU"),
        (
            {"launch": {"train": "torchrun --nproc-per-node 3 --no-python tgo train"}},
            "train.batch_size = 4 cannot be divided by 3 processes",
        ),
    ],
)
def test_what_only_training_would_find(
    small_project: Path, changes: Mapping[str, Any], reason: str
) -> None:
    (found,) = told(small_project, changes)
    assert reason in found


def test_a_package_or_a_compiler_that_is_missing(
    small_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "find_spec", lambda _: None)
    monkeypatch.setenv("CXX", "no-such-compiler")
    found = told(
        small_project,
        {"train": {"optimizer": "adamw8bit", "compile": True}, "generator": {"compile": True}},
    )
    assert any("train.optimizer = adamw8bit: needs bitsandbytes" in line for line in found)
    assert any("generator.compile = true, but torch.compile finds no C++" in line for line in found)


def test_weights_that_loading_refuses_are_refused_here_and_by_tgo_rewards(
    small_project: Path, tiny_rewards: dict[str, str], tmp_path: Path
) -> None:
    """HPSv2's own file name with other bytes, and nothing that says which architecture they are."""
    other = tmp_path / "models/HPS_v2.1_compressed.pt"
    other.parent.mkdir()
    other.write_bytes(b"not the published weights")
    both = {"clip": tiny_rewards["clip"], "hpsv2": str(other)}
    (found,) = told(small_project, {"rewards": both})
    assert found.startswith("rewards.hpsv2: refused: ")
    assert "the published HPS_v2.1_compressed.pt has" in found
    listed = CliRunner().invoke(app, ["rewards"])
    assert f"    {found.removeprefix('rewards.hpsv2: ')}" in listed.output
    with pytest.raises(CheckpointError, match=r"the published HPS_v2\.1_compressed\.pt has"):
        registry.load("hpsv2", str(other))


def test_it_is_noted_what_is_slow_or_blurs(
    small_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu = tmp_path / "cpuinfo"
    monkeypatch.setattr(preflight, "_CPU", cpu)
    workspace.change(small_project, {"generator": {"dtype": "bfloat16"}})
    chosen = settings.load(small_project / "params.yaml")
    cpu.write_text("flags : fpu avx2")
    assert any("no instructions for" in note for note in preflight.notes(chosen))
    cpu.write_text("flags : fpu avx2 avx512_bf16")
    assert list(preflight.notes(chosen)) == []
    workspace.change(small_project, {"generator": {"model": "stabilityai/sdxl-turbo"}})
    (note,) = preflight.notes(settings.load(small_project / "params.yaml"))
    assert "distilled to sample in a few steps" in note
