"""Every preset for one card, run at tiny size on the CPU: its settings go together."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

from tests import workspace
from tests.families import write
from tests.family_parts import resolution
from tgo.pipeline import layout
from tgo.pipeline.config import settings
from tgo.pipeline.labelling import label
from tgo.pipeline.scoring import score
from tgo.pipeline.tools import preset
from tgo.pipeline.training_log import sample_strips
from tgo.trainer import train

KINDS = {
    "sd15": "sd15",
    "sdxl-lora": "sdxl",
    "sd35-lora": "sd3",
    "flux-lora": "flux",
    "flux2-klein-lora": "flux2",
    "qwen-image-lora": "qwenimage",
    "meissonic": "meissonic",
}
"""Presets, and the tiny model that takes the place of theirs."""
ON_A_CPU = {"threads": 1, "device": "cpu"}
NEVER = {"likelihood_fall": None, "accuracy": None, "held_out_rise": None, "patience": 1}
NOT_COMPILED = {"compile": False}  # minutes, and tests of its own


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A folder whose params.yaml is a preset's, of tiny models and counts; the preset's name."""
    name: str = request.param
    kind = KINDS[name]
    rewards = {path.name: str(path) for path in (workspace.ROOT / "data/world/rewards").iterdir()}
    workspace.fill(tmp_path, write(kind, tmp_path / "model"), {})
    shutil.copy(workspace.ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    preset.apply(name, workspace.ROOT / "presets", Path("params.yaml"))
    prompts = {key: f"data/prompts/{key}.jsonl" for key in ("train", "validation")}
    side = None if kind == "meissonic" else resolution(kind)
    workspace.change(
        tmp_path,
        ON_A_CPU
        | {
            "prompts": prompts | {"tests": {"seen": "data/prompts/test_seen.jsonl"}},
            "generator": {"model": "model", "resolution": side, "steps": 2} | NOT_COMPILED,
            "rewards": rewards,
            "score": {"prompts": 6, "batch_size": 2, "rows_per_shard": 4} | NOT_COMPILED,
            "train": {
                "steps": 2,
                "batch_size": 4,
                "gradient_accumulation_steps": 2,
                "checkpoint_every": 1,
                "samples": {"prompts": 2, "every": 1},
                "collapse": NEVER,
            },
        },
    )
    return name


@pytest.mark.slow
@pytest.mark.usefixtures("on_any_device")
@pytest.mark.parametrize("project", KINDS, indirect=True)
def test_a_preset_runs_through_all_stages(project: str) -> None:
    pytest.importorskip("bitsandbytes")
    pytest.importorskip("torchao")
    chosen = settings.load(Path("params.yaml"))
    score.run(chosen)
    label.run(chosen)
    tuned = train.run(chosen)
    lines = [json.loads(line) for line in layout.TRAIN_LOG.read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert all(math.isfinite(line["loss"]) for line in lines)
    assert [step for step, _ in sample_strips.paths(layout.SAMPLES)] == [0, 1, 2]
    assert (tuned / layout.LORA).is_file() == project.endswith("lora")
