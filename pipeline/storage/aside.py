"""Finished work that no longer fits, kept beside its folder until it fits again or is cleaned up.

    data/.scored.aside/3f2a.../shard-00000-of-00008.parquet    what was set aside
    data/.scored.aside/3f2a.../why.json                        its names, and the reason in words

Work of other settings lies under a key that follows from its fingerprint, so that it is found again
when the settings come back. What is damaged or was not written by this program is numbered.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tgo.pipeline.errors import InputError
from tgo.pipeline.storage.atomic import canonical, write_json

WHY = "why.json"
Kind = Literal["superseded", "damaged", "foreign"]
"""Superseded: whole, of other settings. Foreign: not written by this program, so never removed."""


@dataclass(frozen=True)
class Entry:
    """Something that was set aside: `names` are the files or folders of it in `folder`."""

    folder: Path
    kind: Kind
    reason: str
    names: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """What it takes on the disk."""
        everything = (self.folder / name for name in self.names)
        return sum(_size(path) for path in everything if os.path.lexists(path))


def folder_of(folder: Path) -> Path:
    """Where what comes out of `folder` lies: beside it, and beside what a link points to."""
    folder = folder.resolve()
    return folder.parent / f".{folder.name}.aside"


def key_of(identity: Any) -> str:
    """The key of a JSON value such as a fingerprint: 16 hexadecimal digits."""
    return hashlib.sha256(canonical(identity).encode()).hexdigest()[:16]


def set_aside(
    paths: Sequence[Path], folder: Path, reason: str, *, kind: Kind, key: str | None = None
) -> Path:
    """Move files or folders out of `folder`, where they lie or belong.

    Args:
        paths: What to move, in this order; what is not there is left out.
        folder: The folder that they are set aside for.
        reason: Why, in words; it is kept beside them.
        kind: What they are.
        key: What they are found by again (`key_of`); without one, a number.

    Returns:
        The folder they lie in now.
    """
    present = [path for path in paths if os.path.lexists(path)]
    target = _free_folder(folder_of(folder), key, [path.name for path in present])
    names = sorted({path.name for path in present} | set(_names(target)))
    write_json(target / WHY, {"kind": kind, "reason": reason, "names": names})
    for path in present:
        shutil.move(path, target / path.name)
    return target


def find(folder: Path, key: str) -> Entry | None:
    """What was set aside from `folder` under a key, if anything."""
    return _entry(folder_of(folder) / key)


def take_back(entry: Entry, name: str, target: Path) -> None:
    """Move one file or folder of an entry back; an entry that is empty then is removed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(entry.folder / name, target)
    if not any((entry.folder / name).exists() for name in entry.names):
        _remove_folder(entry.folder)


def entries(below: Path) -> list[Entry]:
    """Everything that was set aside anywhere below a folder, in the order of paths."""
    roots = sorted(path for path in below.rglob(".*.aside") if path.is_dir())
    folders = (root.with_name(root.name[1 : -len(".aside")]) for root in roots)
    return [entry for folder in folders for entry in entries_of(folder)]


def entries_of(folder: Path) -> list[Entry]:
    """Everything that was set aside for one folder."""
    root = folder_of(folder)
    candidates = (_entry(path) for path in sorted(root.iterdir())) if root.is_dir() else ()
    return [entry for entry in candidates if entry is not None]


def remove(entry: Entry) -> int:
    """Remove what an entry lists, and nothing else that lies there.

    Args:
        entry: What was set aside.

    Returns:
        The bytes that became free.

    Raises:
        InputError: the entry holds what this program did not write.
    """
    if entry.kind == "foreign":
        raise InputError(f"{entry.folder}: holds files of others; move them where they belong")
    freed = entry.bytes
    for name in entry.names:
        path = entry.folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    _remove_folder(entry.folder)
    return freed


def _entry(folder: Path) -> Entry | None:
    try:
        why = json.loads((folder / WHY).read_text(encoding="utf-8"))
        return Entry(folder, why["kind"], str(why["reason"]), tuple(map(str, why["names"])))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder / WHY}: is damaged ({error}); move {folder} away to keep what is in it, or "
            "remove it"
        ) from None


def _names(folder: Path) -> tuple[str, ...]:
    entry = _entry(folder)
    return entry.names if entry else ()


def _free_folder(root: Path, key: str | None, names: Sequence[str]) -> Path:
    """The folder of a key, or the next one that has none of these names yet; it exists then.

    Numbers are taken by making their folder, since several workers may look for one at once.
    """
    for number in itertools.count(1):
        if key is None:
            path = root / f"{number:04d}"
            with suppress(FileExistsError):
                path.mkdir(parents=True)
                return path
        else:
            path = root / (key if number == 1 else f"{key}.{number}")
            path.mkdir(parents=True, exist_ok=True)
            if not any((path / name).exists() for name in names):
                return path
    raise AssertionError("unreachable")


def _remove_folder(folder: Path) -> None:
    """Remove an entry's folder with its note, unless somebody put something else into it."""
    if {path.name for path in folder.iterdir()} <= {WHY}:
        (folder / WHY).unlink(missing_ok=True)
        folder.rmdir()
        if next(folder.parent.iterdir(), None) is None:
            folder.parent.rmdir()


def _size(path: Path) -> int:
    if path.is_dir() and not path.is_symlink():
        return sum(_size(inner) for inner in path.iterdir())
    return path.lstat().st_size
