from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests import workspace
from tests.stage_one import contents
from tests.workspace import TGO, tgo

pytestmark = pytest.mark.slow


def array_task(place: Path, number: int, count: int) -> subprocess.Popen[str]:
    """`tgo score` as a task of a SLURM array that counts from 1."""
    variables = {
        "SLURM_ARRAY_TASK_ID": str(number + 1),
        "SLURM_ARRAY_TASK_MIN": "1",
        "SLURM_ARRAY_TASK_COUNT": str(count),
    }
    return subprocess.Popen(
        [TGO, "score"],
        cwd=place,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_an_array_writes_the_folder_of_one_run(
    tmp_path: Path, tiny_generator: Path, tiny_rewards: dict[str, str]
) -> None:
    rewards = {"clip": tiny_rewards["clip"]}
    place = workspace.fill(tmp_path / "array", tiny_generator, rewards)
    tasks = [array_task(place, number, 2) for number in range(2)]
    for number, task in enumerate(tasks):
        told, errors = task.communicate(timeout=500)
        assert task.returncode == 0, errors
        assert f"worker {number + 1} of 2: " in told
        assert "images in 2 shards (2 made, 0 completed, 0 kept)" in told
    local = workspace.fill(tmp_path / "local", tiny_generator, rewards)
    assert tgo(local, "score").returncode == 0
    assert contents(place / "data") == contents(local / "data")
    assert "(0 made, 0 completed, 4 kept)" in tgo(place, "score").stdout
