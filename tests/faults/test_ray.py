from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests import workspace
from tests.stage_one import contents
from tests.workspace import TGO, change, tgo
from tgo.pipeline.storage import locks

pytest.importorskip("ray", reason="Ray is an extra")
pytestmark = pytest.mark.slow


def ray_place(folder: Path, generator: Path | str, rewards: dict[str, str]) -> Path:
    workspace.fill(folder, generator, rewards)
    change(folder, {"engine": "ray"})
    return folder


def made(place: Path) -> dict[str, bytes]:
    return contents(place / "data/scored") | contents(place / "data/prompt_embeddings")


def kill_a_worker_in_mid_shard(process: subprocess.Popen[str], scored: Path) -> int:
    """SIGKILL the process that has a shard half written; its id."""
    while not (list(scored.glob(".shard-*.partial")) and (holder := locks.claimant(scored))):
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    found = re.match(r"process (\d+) on ", holder)
    assert found, holder
    os.kill(int(found[1]), signal.SIGKILL)
    return int(found[1])


@pytest.mark.timeout(1200)
def test_a_killed_worker_is_replaced_and_the_bytes_are_those_of_a_local_run(
    tmp_path: Path, tiny_generator: Path, tiny_rewards: dict[str, str]
) -> None:
    rewards = {"clip": tiny_rewards["clip"]}
    place = ray_place(tmp_path / "ray", tiny_generator, rewards)
    process = subprocess.Popen(
        [TGO, "score"], cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    killed = kill_a_worker_in_mid_shard(process, place / "data/scored")
    assert killed != process.pid
    told, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors
    assert "data/scored: 20 images in 4 shards (4 made, 0 completed, 0 kept)" in told
    local = workspace.fill(tmp_path / "local", tiny_generator, rewards)
    assert tgo(local, "score").returncode == 0
    assert made(place) == made(local)
    assert not list(place.rglob("*.partial"))


def test_an_error_in_a_worker_is_one_line_here(tmp_path: Path) -> None:
    done = tgo(ray_place(tmp_path, "nowhere/at/all", {"clip": "nowhere"}), "score")
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("tgo: error: nowhere/at/all: no such model folder")


def test_ray_and_a_launcher_exclude_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = tgo(ray_place(tmp_path, "nowhere/at/all", {"clip": "nowhere"}), "score")
    assert done.returncode == 2
    assert "engine = 'ray' hands out shards itself" in done.stderr
