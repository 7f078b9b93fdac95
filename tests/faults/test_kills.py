from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.faults import jobs
from tests.faults.jobs import FAULTS, Fault
from tests.stage_one import contents
from tgo.pipeline.storage import shards

KILLS = 50
SMALL: dict[str, Any] = {"images_per_prompt": 1, "batch_size": 2, "rows_per_shard": 3}
COUNT = 4  # shards of ten prompts
Models = tuple[Path, dict[str, str]]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def models(tiny_generator: Path, tiny_rewards: dict[str, str]) -> Models:
    return tiny_generator, {"clip": tiny_rewards["clip"]}


class Whole:
    """An uninterrupted run: its files, its duration, and how often it passed each kill place."""

    def __init__(self, root: Path, models: Models) -> None:
        jobs.finish(root / "first", *models, **SMALL)  # starts the fork server
        began = time.monotonic()
        assert jobs.finish(root / "run", *models, counted=root / "counts", **SMALL) == 0
        self.seconds = time.monotonic() - began
        self.contents = contents(root / "run")
        lines = (root / "counts").read_text().splitlines()
        self.counts = {where: int(count) for where, count in (line.split("\t") for line in lines)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, models: Models) -> Whole:
    return Whole(tmp_path_factory.mktemp("whole"), models)


def kill_once(root: Path, models: Models, whole: Whole, chance: random.Random) -> str | None:
    """Run stage one and kill it, at a place inside it or after a time; None if it ended first."""
    where = chance.choice([*FAULTS, "time", "time"])
    if where == "time":
        process = jobs.start(root, *models, made=root / "made", **SMALL)
        process.join(chance.uniform(0.1, 1.0) * whole.seconds)
        process.kill()
        process.join()
        code = process.exitcode
    else:
        fault = Fault(where, chance.randint(1, max(whole.counts[where] // 2, 1)))
        code = jobs.finish(root, *models, fault=fault, made=root / "made", **SMALL)
    assert code in (0, -signal.SIGKILL)
    return where if code else None


def finished(root: Path) -> dict[str, bytes]:
    """The shards under their final names, as bytes; each must be readable."""
    paths = shards.present(root / "scored")
    assert all(shards.read_shard(path).num_rows for path in paths)
    return {path.name: path.read_bytes() for path in paths}


def check_end(root: Path, whole: Whole, kills: int) -> None:
    """Check for the files of an uninterrupted run and at most one restarted shard per kill."""
    begun = Counter((root / "made").read_text().split())
    assert len(begun) == COUNT
    assert begun.total() <= COUNT + kills
    (root / "made").unlink()
    assert contents(root) == whole.contents
    shutil.rmtree(root)
    root.mkdir()


@pytest.mark.timeout(1800)  # two minutes on an idle machine
def test_killed_at_fifty_moments_it_ends_with_the_same_bytes(
    tmp_path: Path, models: Models, whole: Whole
) -> None:
    assert all(whole.counts.values()), "a place that is never reached tests nothing"
    chance, places, since = random.Random(0), Counter[str](), 0
    root = tmp_path / "run"
    root.mkdir()
    kept: dict[str, bytes] = {}
    while places.total() < KILLS:
        where = kill_once(root, models, whole, chance)
        if where is None:
            check_end(root, whole, since)
            kept, since = {}, 0
            continue
        places[where] += 1
        since += 1
        now = finished(root)
        assert kept.items() <= now.items(), "a kill lost a finished shard"
        kept = now
    assert jobs.finish(root, *models, made=root / "made", **SMALL) == 0
    check_end(root, whole, since)
    assert set(places) == {*FAULTS, "time"}, places


def test_several_sizes_end_with_the_same_bytes(tmp_path: Path, models: Models) -> None:
    several: dict[str, Any] = {"resolution": [[16, 16], [24, 16], [16, 24]], **SMALL}
    assert jobs.finish(tmp_path / "whole", *models, **several) == 0
    for fault in (Fault("sample", 3), Fault("write", 40), Fault("rename", 3)):
        code = jobs.finish(tmp_path / "run", *models, fault=fault, **several)
        assert code == -signal.SIGKILL, fault
    assert jobs.finish(tmp_path / "run", *models, **several) == 0
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


def test_a_second_process_is_told_who_writes(tmp_path: Path, models: Models, whole: Whole) -> None:
    process = jobs.start(tmp_path / "run", *models, **SMALL)
    try:
        lock = tmp_path / "run/.scored.lock"
        while not (lock.exists() and lock.read_text()):
            assert process.is_alive()
            time.sleep(0.001)
        process_id = process.pid
        assert process_id is not None
        os.kill(process_id, signal.SIGSTOP)  # it holds the folder until the test ends it
        assert jobs.finish(tmp_path / "run", *models, log=tmp_path / "log", **SMALL) == 2
        assert f"is being written by process {process_id} on " in (tmp_path / "log").read_text()
    finally:
        process.kill()
        process.join()
    assert jobs.finish(tmp_path / "run", *models, **SMALL) == 0
    assert contents(tmp_path / "run") == whole.contents


def test_workers_killed_in_mid_shard_end_with_the_bytes_of_one_run(
    tmp_path: Path, models: Models, whole: Whole
) -> None:
    """Three processes, each with its share; one dies inside a write and is started again."""
    processes = [
        jobs.start(
            tmp_path,
            *models,
            share=(rank, 3),
            fault=Fault("write", 3) if rank == 1 else None,
            **SMALL,
        )
        for rank in range(3)
    ]
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0, -signal.SIGKILL, 0]
    there = {shards.index_of(path) for path in shards.present(tmp_path / "scored")}
    assert there == {0, 2, 3}
    kept = finished(tmp_path)
    assert jobs.finish(tmp_path, *models, share=(1, 3), **SMALL) == 0
    assert kept.items() <= finished(tmp_path).items()
    assert contents(tmp_path) == whole.contents
