"""Folders and files that this program wrote, and which it may therefore replace or remove.

A folder is ours when its marker file lists everything that lies in it. Whatever somebody added or
edited is theirs: the folder is then left alone, with a line that names the file.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tgo.pipeline.errors import InputError
from tgo.pipeline.storage.atomic import write_json
from tgo.rewards.checksum import file_sha256

MARKER = ".tgo-written.json"
"""In every folder of ours: `kind`, and `files` with the size and sha256 of each."""
_HASHED_UP_TO = 1 << 24
"""Bytes; of larger files (weights) the marker knows the size alone, so that checking is quick."""


@contextmanager
def replacing_folder(folder: Path, kind: str) -> Iterator[Path]:
    """An empty folder to fill; it takes the place of `folder` when the block ends well.

    The old one is renamed away before it is removed: after a kill at any moment `folder` is the
    old one, the new one, or absent with the old one beside it as `.NAME.before`.

    Args:
        folder: What to write; a link is followed.
        kind: What the folder holds, in a word such as "export"; only a folder that was written as
            this kind is replaced.

    Yields:
        Path: the empty folder.

    Raises:
        InputError: `folder` holds what this program did not write, or is (or contains) the
            working folder.
    """
    folder = folder.resolve()
    require_replaceable(folder, kind)
    partial, before = (folder.with_name(f".{folder.name}.{end}") for end in ("partial", "before"))
    for leftover in (partial, before):
        remove_folder(leftover, kind)
    partial.mkdir(parents=True)
    mark(partial, kind)
    try:
        yield partial
        mark(partial, kind)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if folder.exists():
        os.replace(folder, before)
    os.replace(partial, folder)
    remove_folder(before, kind)


def remove_folder(folder: Path, kind: str) -> None:
    """Remove a folder of ours, if it is there.

    Args:
        folder: The folder to remove.
        kind: As in `replacing_folder`.

    Raises:
        InputError: as `replacing_folder`; nothing has been removed then.
    """
    removed = folder.with_name(f".{folder.name.lstrip('.')}.removed")
    for each in (removed, folder):  # the first one where an earlier removal was killed
        if not os.path.lexists(each):
            continue
        require_replaceable(each, kind)
        if each != removed:
            os.replace(each, removed)
        for path in removed.iterdir():
            if path.name == MARKER:  # the last to go: without it nobody knows whose folder it is
                continue
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        shutil.rmtree(removed)


def mark(folder: Path, kind: str) -> None:
    """Record everything in a folder as written by this program; call it after the last file."""
    files = {
        path.relative_to(folder).as_posix(): _facts(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MARKER
    }
    write_json(folder / MARKER, {"written_by": "tgo", "kind": kind, "files": files})


def require_replaceable(folder: Path, kind: str) -> None:
    """Check that a folder may be replaced or removed: absent, empty, or all of it ours.

    A file that a killed writer had not yet listed counts as ours in a `.partial` folder alone.

    Args:
        folder: The folder.
        kind: As in `replacing_folder`.

    Raises:
        InputError: naming the first thing that is not ours, and the remedy.
    """
    if not os.path.lexists(folder):
        return
    here, target = Path.cwd().resolve(), folder.resolve()
    if target == here or target in here.parents:
        raise InputError(f"{folder}: is the working folder or holds it; choose another folder")
    if not folder.is_dir() or folder.is_symlink():
        raise InputError(f"{folder}: exists and is no folder of this program; choose another name")
    if next(folder.iterdir(), None) is None:
        return
    listed = _listed(folder, kind)
    if folder.name.endswith((".partial", ".removed")):
        return
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() and not path.is_symlink():
            continue
        if name != MARKER and (name not in listed or listed[name] != _facts(path)):
            raise InputError(
                f"{path}: was not written by this program, or was changed since; move it away or "
                "choose another folder"
            )


def require_replaceable_file(path: Path, is_ours: Callable[[Path], bool]) -> None:
    """Check that a file may be written: absent, or one that `is_ours` recognises.

    Args:
        path: The file to write.
        is_ours: Tells of a file that is not empty whether this program wrote it.

    Raises:
        InputError: the path is somebody else's file, a folder, or a device.
    """
    if not os.path.lexists(path):
        return
    if not path.exists() or not stat.S_ISREG(path.stat().st_mode):
        raise InputError(f"{path}: is no ordinary file; choose another name")
    if path.stat().st_size and not is_ours(path):
        raise InputError(
            f"{path}: exists and was not written by this command; choose another name, or move "
            "the file away"
        )


def _listed(folder: Path, kind: str) -> dict[str, object]:
    path = folder / MARKER
    try:
        marker = json.loads(path.read_text(encoding="utf-8"))
        if marker["written_by"] == "tgo" and marker["kind"] == kind:
            return dict(marker["files"])
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); choose another folder") from None
    raise InputError(
        f"{folder}: exists and was not written by this command (no {MARKER} of {kind!r} in it); "
        "choose another folder, or move this one away"
    )


def _facts(path: Path) -> dict[str, object]:
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        return {"size": -1}
    small = status.st_size <= _HASHED_UP_TO
    return {"size": status.st_size} | ({"sha256": file_sha256(path)} if small else {})
