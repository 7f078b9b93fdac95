"""One writer a folder: a second run is told who holds it instead of writing beside it."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from pipeline.errors import InputError


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process while the block runs; InputError names another holder.

    The lock is the kernel's (flock), so it ends with its process however that dies, and a
    left-over file means nothing. The file lies beside the folder, not in it: DVC hashes the
    folder. `filelock` would empty the file on every attempt, and with it the holder's name.
    """
    path = folder.parent / f".{folder.name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{folder}: is being written by {_holder(path)}; wait until it ends, or stop it"
            ) from None
        file.truncate(0)
        json.dump(
            {
                "pid": os.getpid(),
                "host": socket.gethostname(),
                "since": datetime.now().astimezone().isoformat(timespec="seconds"),
            },
            file,
        )
        file.flush()
        yield


def _holder(path: Path) -> str:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return f"process {record['pid']} on {record['host']} since {record['since']}"
    except (ValueError, KeyError, OSError):
        return "another process that has only just begun"
