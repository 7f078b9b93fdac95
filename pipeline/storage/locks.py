"""Who writes a folder: one run, or several workers on shards of their own, never both.

Locks are the kernel's, so they end with their process however that dies, and a left-over file
means nothing. The files lie beside the folder (beside what a link points to, so that two names of
one folder share its lock), not in it: DVC hashes the folder. On a network disk they hold as far as
that disk honours flock and POSIX locks.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from tgo.pipeline.errors import InputError

_SLOT = 256
"""Bytes of the claims file that belong to one shard: its lock, and the record of who holds it."""
_PREPARING = "a worker that prepares the folder"


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process alone while the block runs; InputError names another holder.

    `filelock` would empty the file on every attempt, and with it the holder's name.
    """
    with _opened(folder) as file:
        if not _locked(file, fcntl.LOCK_EX):
            raise _held(folder)
        if worker := claimant(folder):  # a Ray worker may outlive its driver for a moment
            raise _held(folder, worker)
        _record(file)
        yield


@contextmanager
def join(folder: Path, prepare: Callable[[], None]) -> Iterator[None]:
    """Write `folder` beside other workers while the block runs; what each writes it must `claim`.

    Whoever finds the folder free calls `prepare` first, and the others wait for that. Raises
    InputError naming the holder if one process holds the folder for itself.
    """
    with _opened(folder) as file:
        if _locked(file, fcntl.LOCK_EX):
            _record(file, _PREPARING)
            prepare()
            file.truncate(0)
        _share(folder, file)
        yield


@contextmanager
def claim(folder: Path, shards: Iterable[int]) -> Iterator[None]:
    """Claim numbered shards for this process; InputError names the process that has one of them.

    One process must not claim twice at once: these are POSIX locks, which belong to processes.
    """
    path = _claims(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    with path.open("rb+", buffering=0) as file:
        for shard in shards:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, _SLOT, shard * _SLOT)
            except (BlockingIOError, PermissionError):
                holder = _slot_holder(file, shard)
                raise InputError(
                    f"{folder}, shard {shard}: is being made by {holder}; wait until it ends, or "
                    "give every worker a share of its own"
                ) from None
            file.seek(shard * _SLOT)
            file.write(json.dumps(_whoami("a worker")).encode().ljust(_SLOT)[:_SLOT])
        yield


def claimant(folder: Path) -> str | None:
    """A process that has claimed shards of `folder`; None if there is none."""
    path = _claims(folder)
    if not path.exists():
        return None
    with path.open("rb+", buffering=0) as file:
        for shard in range(path.stat().st_size // _SLOT):
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, _SLOT, shard * _SLOT)
            except (BlockingIOError, PermissionError):
                return _slot_holder(file, shard)
    return None


@contextmanager
def waiting(path: Path) -> Iterator[None]:
    """Hold a lock beside `path` for a moment, waiting for whoever has it."""
    with _opened(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _opened(folder: Path) -> Iterator[IO[str]]:
    path = _beside(folder, "lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        yield file


def _locked(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _share(folder: Path, file: IO[str]) -> None:
    """Take the shared lock, waiting as long as another worker prepares the folder.

    Any other holder is an error, but only after a second: until a new holder has written its
    record, the file still shows the record of the last one.
    """
    patience = time.monotonic() + 1.0
    while not _locked(file, fcntl.LOCK_SH):
        if _read(file).get("as") == _PREPARING:
            patience = time.monotonic() + 1.0
        elif time.monotonic() > patience:
            raise _held(folder)
        time.sleep(0.02)


def _record(file: IO[str], role: str = "a run") -> None:
    file.truncate(0)
    json.dump(_whoami(role), file)
    file.flush()


def _whoami(role: str) -> dict[str, Any]:
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    return {"pid": os.getpid(), "host": socket.gethostname()[:64], "since": now, "as": role}


def _held(folder: Path, holder: str | None = None) -> InputError:
    if holder is None:
        with _opened(folder) as file:
            holder = _named(_read(file)) or claimant(folder)
    return InputError(
        f"{folder}: is being written by {holder or 'another process that has only just begun'}; "
        "wait until it ends, or stop it"
    )


def _read(file: IO[str]) -> dict[str, Any]:
    record: dict[str, Any] = {}
    with suppress(ValueError):  # a record that is being written
        file.seek(0)
        record = json.load(file)
    return record


def _slot_holder(file: IO[bytes], shard: int) -> str:
    file.seek(shard * _SLOT)
    with suppress(ValueError):
        return _named(json.loads(file.read(_SLOT))) or "another worker"
    return "another worker that has only just begun"


def _named(record: dict[str, Any]) -> str | None:
    if not {"pid", "host", "since"} <= record.keys():
        return None
    return f"process {record['pid']} on {record['host']} since {record['since']}"


def _claims(folder: Path) -> Path:
    return _beside(folder, "claims.lock")


def _beside(folder: Path, suffix: str) -> Path:
    folder = folder.resolve()
    return folder.parent / f".{folder.name}.{suffix}"
