"""Files that appear whole or not at all: the finished name is the commit."""

from __future__ import annotations

import errno
import json
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from tgo.pipeline.errors import InputError

_BEHIND = 4  # files that wait for the disk at once
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Commits:
    """Waits for the disk on a thread of its own, while the next files are written.

    When the block ends, every file has its name and is on the disk; the first that could not be
    is the error of the block, or of a `replacing` before its end.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._waiting: deque[Future[None]] = deque()

    def __enter__(self) -> Commits:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._pool.shutdown()
        while self._waiting and kind is None:
            self._waiting.popleft().result()

    def add(self, commit: Callable[[], None]) -> None:
        """Run `commit` after those before it; waits while many are behind."""
        self._waiting.append(self._pool.submit(commit))
        if len(self._waiting) > _BEHIND:
            self._waiting.popleft().result()


@contextmanager
def replacing(path: Path, commits: Commits | None = None) -> Iterator[BinaryIO]:
    """A binary file to write to; it takes the name `path` only when the block ends well.

    Temporary name in the same folder, fsync, rename, fsync of the folder: after a kill or a
    power cut at any moment `path` is the old file or the new one. A full or unwritable disk is an
    InputError; the temporary file is removed and finished files stay. With `commits`, what waits
    for the disk is left to them.
    """
    partial = path.with_name(f".{path.name}.partial")
    with _undone(path, partial):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = partial.open("wb")
        try:
            yield file
            file.flush()
        except BaseException:
            file.close()
            raise
    if commits is None:
        _commit(file, partial, path)
    else:
        commits.add(lambda: _commit(file, partial, path))


def _commit(file: BinaryIO, partial: Path, path: Path) -> None:
    with _undone(path, partial):
        with file:
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync_folder(path.parent)


@contextmanager
def _undone(path: Path, partial: Path) -> Iterator[None]:
    """Remove the temporary file of `path` where the block fails; the disk's faults in one line."""
    try:
        yield
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise InputError(f"{path}: {explain(error)}") from error
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def is_disks_fault(error: OSError) -> bool:
    """Whether a full or forbidden disk is what stopped a write, and not a fault of ours."""
    return error.errno in (*_FULL, errno.EACCES, errno.EPERM, errno.EROFS)


def explain(error: OSError) -> str:
    """Why a file cannot be written, and what to do."""
    reason = error.strerror or " ".join(str(error).split())
    if error.errno in _FULL:
        return (
            f"no space left to write it ({reason}); free some and run the same command again, "
            "finished files are kept"
        )
    return f"cannot be written ({reason}); mend that and run the same command again"


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON with sorted keys, so that equal values are equal bytes."""
    with replacing(path) as file:
        file.write((canonical(value, indent=2) + "\n").encode())


def canonical(value: Any, indent: int | None = None) -> str:
    """JSON in its one canonical spelling; refuses NaN and infinities."""
    separators = (",", ":") if indent is None else (",", ": ")
    return json.dumps(
        value,
        sort_keys=True,
        ensure_ascii=False,
        allow_nan=False,
        indent=indent,
        separators=separators,
    )


def remove_partials(folder: Path) -> None:
    """Remove what a killed writer left under a temporary name; hold the folder's lock."""
    for partial in folder.glob(".*.partial"):
        partial.unlink()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
