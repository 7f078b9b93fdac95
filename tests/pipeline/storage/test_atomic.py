from __future__ import annotations

import os
from pathlib import Path

import pytest

from tgo.pipeline.errors import InputError
from tgo.pipeline.storage import atomic
from tgo.pipeline.storage.atomic import Commits, replacing


def write(path: Path, content: bytes, commits: Commits | None = None) -> None:
    with replacing(path, commits) as file:
        file.write(content)


def test_files_left_to_commits_are_there_when_the_block_ends(tmp_path: Path) -> None:
    names = [f"{number}.bin" for number in range(12)]
    with Commits() as commits:
        for name in names:
            write(tmp_path / name, name.encode(), commits)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    assert all((tmp_path / name).read_bytes() == name.encode() for name in names)


@pytest.mark.parametrize("aside", [False, True])
def test_every_file_is_synced_before_it_is_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, aside: bool
) -> None:
    done: list[str] = []
    sync, rename = os.fsync, os.replace

    def noted_sync(fd: int) -> None:
        done.append("sync")
        sync(fd)

    def noted_rename(*names: Path) -> None:
        done.append("rename")
        rename(*names)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(os, "replace", noted_rename)
    with Commits() as commits:
        for number in range(3):
            write(tmp_path / str(number), b"x", commits if aside else None)
    assert done == ["sync", "rename", "sync"] * 3  # the file, its name, the folder


def test_a_disk_that_fails_late_is_one_line_and_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "old", b"old")

    def full(fd: int) -> None:
        raise OSError(atomic.errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="old: no space left"), Commits() as commits:
        write(tmp_path / "old", b"new", commits)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old").read_bytes() == b"old"


def test_a_failed_commit_stops_the_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int) -> None:
        raise OSError(atomic.errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    begun = iter(range(100))

    def write_all() -> None:
        with Commits() as commits:
            for number in begun:
                write(tmp_path / str(number), b"x", commits)

    with pytest.raises(InputError, match="no space left"):
        write_all()
    assert next(begun) < 10
    assert not list(tmp_path.iterdir())


def test_a_block_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write(path, b"old")

    def fail() -> None:
        with Commits() as commits, replacing(path, commits) as file:
            file.write(b"new")
            raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        fail()
    assert [found.name for found in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"old"
