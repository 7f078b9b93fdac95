"""Files that appear whole or not at all: the finished name is the commit."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.errors import InputError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A binary file to write to; it takes the name `path` only when the block ends well.

    Temporary name in the same folder, fsync, rename, fsync of the folder: after a kill or a
    power cut at any moment `path` is the old file or the new one. A full or unwritable disk is an
    InputError; the temporary file is removed and finished files stay.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync_folder(path.parent)
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
