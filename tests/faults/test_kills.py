from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from pipeline import shards
from tests.faults import jobs
from tests.stage_one import contents

Models = tuple[Path, dict[str, str]]


@pytest.fixture(scope="module")
def models(tiny_generator: Path, tiny_rewards: dict[str, str]) -> Models:
    return tiny_generator, {name: tiny_rewards[name] for name in ("clip", "aesthetic")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, models: Models) -> tuple[Path, float]:
    """An uninterrupted run, and the seconds it took."""
    root = tmp_path_factory.mktemp("whole")
    jobs.finish(root / "first", *models)  # starts the fork server
    began = time.monotonic()
    assert jobs.finish(root / "run", *models) == 0
    return root / "run", time.monotonic() - began


@pytest.mark.slow
@pytest.mark.parametrize("where", jobs.FAULTS)
def test_killed_inside_a_commit_it_ends_with_the_same_bytes(
    tmp_path: Path, models: Models, whole: tuple[Path, float], where: str
) -> None:
    for number in (1, 4):
        assert jobs.finish(tmp_path, *models, fault=(where, number)) == -signal.SIGKILL
        finished = shards.present(tmp_path / "scored")
        assert all(shards.read_shard(path).num_rows for path in finished)
    assert jobs.finish(tmp_path, *models) == 0
    assert contents(tmp_path) == contents(whole[0])


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_bytes(
    tmp_path: Path, models: Models, whole: tuple[Path, float]
) -> None:
    chance = random.Random(0)
    kept: set[str] = set()
    for _ in range(6):
        process = jobs.start(tmp_path, *models)
        time.sleep(chance.uniform(0.1, 1.0) * whole[1])
        process.kill()
        process.join()
        now = {path.name for path in shards.present(tmp_path / "scored")}
        assert kept <= now, "a kill lost a finished shard"
        kept = now
    assert jobs.finish(tmp_path, *models) == 0
    assert contents(tmp_path) == contents(whole[0])


@pytest.mark.slow
def test_a_second_process_is_told_who_writes(
    tmp_path: Path, models: Models, whole: tuple[Path, float]
) -> None:
    process = jobs.start(tmp_path / "run", *models)
    try:
        lock = tmp_path / "run/.scored.lock"
        while not (lock.exists() and lock.read_text()):
            assert process.is_alive()
            time.sleep(0.001)
        process_id = process.pid
        assert process_id is not None
        os.kill(process_id, signal.SIGSTOP)  # it holds the folder for as long as the test likes
        assert jobs.finish(tmp_path / "run", *models, log=tmp_path / "log") == 2
        assert f"is being written by process {process_id} on " in (tmp_path / "log").read_text()
    finally:
        process.kill()
        process.join()
    assert jobs.finish(tmp_path / "run", *models) == 0
    assert contents(tmp_path / "run") == contents(whole[0])
