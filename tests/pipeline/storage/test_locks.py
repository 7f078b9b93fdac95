from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tgo.pipeline.errors import InputError
from tgo.pipeline.storage import locks

HOLDER = """
import sys, time
from contextlib import nullcontext
from pathlib import Path
from tgo.pipeline.storage import locks
folder, way, *shards = Path(sys.argv[1]), *sys.argv[2:]
entered = {"all": locks.hold, "share": lambda at: locks.join(at, lambda: None), "no": nullcontext}
with entered[way](folder), locks.claim(folder, [int(shard) for shard in shards]):
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def another(folder: Path, way: str, *shards: int) -> Iterator[int]:
    """Another process that holds a folder or some of its shards; its id."""
    command = [sys.executable, "-c", HOLDER, str(folder), way, *map(str, shards)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process.pid
    finally:
        process.kill()
        process.wait()


def test_a_second_run_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "scored"
    with another(folder, "all") as holder:
        for _ in range(2):  # the first attempt changed nothing
            with pytest.raises(InputError) as caught, locks.hold(folder):
                pass
            told = f"{folder}: is being written by process {holder} on "
            assert told in str(caught.value)
        with pytest.raises(InputError) as caught, locks.join(folder, lambda: None):
            pass
        assert f"process {holder} on " in str(caught.value)
    with locks.hold(folder):  # after a kill the file is still there, but not locked
        assert str(os.getpid()) in (tmp_path / ".scored.lock").read_text()
    assert not folder.exists()


def test_workers_write_beside_each_other_and_keep_a_full_run_out(tmp_path: Path) -> None:
    folder, prepared = tmp_path / "scored", []
    with another(folder, "share", 0, 2) as first:
        with locks.join(folder, lambda: prepared.append(1)), locks.claim(folder, [1, 3]):
            pass
        assert not prepared, "the first worker had done that"
        with pytest.raises(InputError) as caught, locks.hold(folder):
            pass
        assert f"is being written by process {first} on " in str(caught.value)
        with pytest.raises(InputError) as caught, locks.claim(folder, [1, 2]):
            pass
        assert f"shard 2: is being made by process {first} on " in str(caught.value)
    assert locks.claimant(folder) is None
    with locks.join(folder, lambda: prepared.append(1)), locks.claim(folder, [0, 2]):
        assert prepared == [1]


def test_a_full_run_is_told_of_a_worker_that_outlived_its_run(tmp_path: Path) -> None:
    folder = tmp_path / "scored"
    with (
        another(folder, "no", 4) as worker,
        pytest.raises(InputError, match=f"by process {worker} on"),
        locks.hold(folder),
    ):
        pass


def test_two_projects_that_share_a_folder_by_links_exclude_each_other(tmp_path: Path) -> None:
    (tmp_path / "disk/scored").mkdir(parents=True)
    for project in ("one", "other"):
        (tmp_path / project).mkdir()
        (tmp_path / project / "scored").symlink_to(tmp_path / "disk/scored")
    with (
        another(tmp_path / "one/scored", "all") as process,
        pytest.raises(InputError, match=f"is being written by process {process}"),
        locks.hold(tmp_path / "other/scored"),
    ):
        raise AssertionError("both hold it")
