"""`.manifest.json` of a shard folder: rows, bytes and sha256 of every shard.

It is derived: made from the shards when missing, and the same bytes whoever makes it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TypedDict

import pyarrow.parquet as pq

from pipeline.atomic import write_json
from pipeline.shards import present

NAME = ".manifest.json"


class Entry(TypedDict):
    rows: int
    bytes: int
    sha256: str


def read(folder: Path) -> dict[str, Entry]:
    """Entries by file name; empty if there is no manifest or it cannot be read."""
    try:
        shards: dict[str, Entry] = json.loads((folder / NAME).read_text())["shards"]
        return shards
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def entry(path: Path) -> Entry:
    """The entry of a shard as it lies there; OSError or ArrowException if it is no shard."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "rows": pq.read_metadata(path).num_rows,
        "bytes": path.stat().st_size,
        "sha256": digest,
    }


def restrict(folder: Path, names: Collection[str]) -> None:
    """Forget every shard but `names`: an entry must not outlive the bytes it describes."""
    entries = read(folder)
    if entries.keys() - set(names):
        _write(folder, {name: entry for name, entry in entries.items() if name in names})


def complete(folder: Path) -> None:
    """Add the shards that it does not list yet."""
    entries = read(folder)
    wanted = {path.name: entries.get(path.name) or entry(path) for path in present(folder)}
    if wanted != entries or not (folder / NAME).exists():
        _write(folder, wanted)


def _write(folder: Path, entries: Mapping[str, Entry]) -> None:
    write_json(folder / NAME, {"shards": dict(entries)})
