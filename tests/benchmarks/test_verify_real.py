"""Every step of the comparison with published numbers, with stand-ins from a local hub."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import verify_real
from tests import hub
from tests.workspace import ROOT
from tgo.pipeline.sources.prompts import Prompt

pytestmark = pytest.mark.slow
REPOSITORIES = {
    "pickscore": "yuvalkirstain/PickScore_v1",
    "hpsv2": "xswu/HPSv2",
    "imagereward": "THUDM/ImageReward",
    "clip": "someone/clip",  # under the published name other weights are refused
}


def test_it_runs_and_tells_stand_ins_from_published_files(
    tiny_generator: Path, tiny_rewards: dict[str, str], tmp_path: Path
) -> None:
    places = {name: tmp_path / "hub" / place for name, place in REPOSITORIES.items()}
    for name, place in places.items():
        shutil.copytree(tiny_rewards[name], place)
    model = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    shutil.copytree(tiny_generator, tmp_path / "hub" / model)
    lists = tmp_path / "hpsv2"
    lists.mkdir()
    for style in ("anime", "concept-art", "paintings", "photo"):
        (lists / f"{style}.json").write_text(
            json.dumps([f"a red circle {style} {n}" for n in "abc"])
        )
    parti = tmp_path / "parti.jsonl"
    parti.write_text("".join(f'{{"prompt": "a blue square {n}"}}\n' for n in range(5)))
    changes = {
        "device": "cpu", "threads": "1", "generator.compile": "false", "generator.dtype": "float32",
        "generator.steps": "2", "score.compile": "false", "score.batch_size": "4",
        "evaluate.prompts": "4", "prompts.train": f"{parti}", "prompts.validation": f"{parti}",
        "prompts.tests": f"{{parti: {parti}, hpsv2: {{source: {lists}, format: hpsv2}}}}",
        "rewards.clip": REPOSITORIES["clip"], "rewards.aesthetic": tiny_rewards["aesthetic"],
    }  # fmt: skip
    words = [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "benchmarks.verify_real", str(tmp_path / "verified"), *words]

    with hub.serving(tmp_path / "hub") as server:
        environment = os.environ | {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "cache")}
        environment.pop("HF_HUB_OFFLINE", None)
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500,
            check=False,
        )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == 1, done.stdout + done.stderr
    assert {f"{model}/model_index.json", "xswu/HPSv2/HPS_v2.1_compressed.pt"} <= server.fetched
    found = json.loads((tmp_path / "verified/verified.json").read_text())
    assert [(line["reward"], line["agrees"]) for line in found["parity"]] == [
        ("hpsv2", True),
        ("imagereward", True),
    ]
    assert {line["version"] for line in found["files"]} == {"unpublished"}
    assert len(found["base model"]) == len(verify_real.PUBLISHED)
    assert not any(line["agrees"] for line in found["base model"])  # random weights
    assert "DIFFERS  base model: prompts parti, reward pickscore, base 21.15" in done.stdout
    assert "9 of 11 differ" in done.stdout


def test_prompts_are_taken_evenly() -> None:
    every = [Prompt(str(n), f"text {n}", "all") for n in range(10)]
    assert [prompt.id for prompt in verify_real.spread(every, 4)] == ["0", "2", "5", "7"]
    assert verify_real.spread(every, 20) == every
