"""What is not ours is never replaced or removed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tgo.pipeline.errors import InputError
from tgo.pipeline.storage import ownership
from tgo.pipeline.storage.ownership import MARKER, replacing_folder


def write(folder: Path, text: str = "new") -> None:
    with replacing_folder(folder, "export") as filling:
        (filling / "tgo").mkdir()
        (filling / "tgo/card.md").write_text(text)


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_folder_of_ours_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    write(tmp_path / "out", "old")
    write(tmp_path / "out")
    assert (tmp_path / "out/tgo/card.md").read_text() == "new"
    assert names(tmp_path) == ["out", f"out/{MARKER}", "out/tgo", "out/tgo/card.md"]


@pytest.mark.parametrize("change", ["added", "edited", "foreign"])
def test_what_somebody_else_wrote_stays(tmp_path: Path, change: str) -> None:
    out = tmp_path / "out"
    if change == "foreign":
        (out / "tgo").mkdir(parents=True)
    else:
        write(out)
    (out / ("tgo/card.md" if change == "edited" else "mine.txt")).write_text("mine")
    before = names(tmp_path)
    with pytest.raises(InputError, match="written by this"):
        write(out)
    assert names(tmp_path) == before


@pytest.mark.parametrize("output", [".", "..", "../..", "../here"])
def test_never_the_working_folder_or_a_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    here = tmp_path / "tgo/here"
    here.mkdir(parents=True)
    (tmp_path / "tgo/keep.txt").write_text("keep")
    monkeypatch.chdir(here)
    with pytest.raises(InputError, match="working folder"):
        write(Path(output))
    assert (tmp_path / "tgo/keep.txt").read_text() == "keep"


@pytest.mark.parametrize("moment", ["filling", "renamed", "removing"])
def test_a_kill_leaves_something_that_the_next_run_replaces(tmp_path: Path, moment: str) -> None:
    write(tmp_path / "out", "old")
    if (
        moment == "filling"
    ):  # after SIGKILL the folder is half full and its marker lists fewer files
        (tmp_path / ".out.partial").mkdir()
        ownership.mark(tmp_path / ".out.partial", "export")
        (tmp_path / ".out.partial/half").write_text("half")
    elif moment == "renamed":
        os.replace(tmp_path / "out", tmp_path / ".out.before")
    else:
        os.replace(tmp_path / "out", tmp_path / ".out.before.removed")
    write(tmp_path / "out")
    assert names(tmp_path) == ["out", f"out/{MARKER}", "out/tgo", "out/tgo/card.md"]


def test_a_failed_block_leaves_the_old_folder(tmp_path: Path) -> None:
    write(tmp_path / "out", "old")
    with pytest.raises(RuntimeError), replacing_folder(tmp_path / "out", "export"):
        raise RuntimeError
    assert (tmp_path / "out/tgo/card.md").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_link_is_followed_and_stays(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere/out", "old")
    (tmp_path / "out").symlink_to(tmp_path / "elsewhere/out")
    write(tmp_path / "out")
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "elsewhere/out/tgo/card.md").read_text() == "new"


def test_files_of_others_and_devices_are_not_written(tmp_path: Path) -> None:
    foreign, empty, fifo = (tmp_path / name for name in ("notes.txt", "empty", "fifo"))
    foreign.write_text("mine")
    empty.touch()
    os.mkfifo(fifo)
    ownership.require_replaceable_file(empty, lambda path: False)
    ownership.require_replaceable_file(tmp_path / "absent", lambda path: False)
    ownership.require_replaceable_file(foreign, lambda path: True)
    for path in (foreign, fifo, tmp_path):
        with pytest.raises(InputError, match="choose another name"):
            ownership.require_replaceable_file(path, lambda path: False)
