"""`.manifest.json` of a shard folder: rows, bytes and sha256 of every shard.

It is derived: made from the shards when missing, and the same bytes whoever makes it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import MappingProxyType

import pyarrow.parquet as pq
from tgo.pipeline.storage.atomic import write_json
from tgo.pipeline.storage.locks import waiting
from tgo.pipeline.storage.shard_writer import Entry
from tgo.pipeline.storage.shards import present

NAME = ".manifest.json"


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


def forget(folder: Path, names: Collection[str]) -> None:
    """Forget shards: an entry must not outlive the bytes it describes."""
    with _alone(folder):
        entries = read(folder)
        if entries.keys() & set(names):
            _write(folder, {name: entry for name, entry in entries.items() if name not in names})


def restrict(folder: Path, names: Collection[str]) -> None:
    """Forget every shard but `names`."""
    forget(folder, read(folder).keys() - set(names))


def complete(
    folder: Path,
    paths: Sequence[Path] | None = None,
    known: Mapping[str, Entry] = MappingProxyType({}),
) -> None:
    """Add the entries of shards that it does not list yet: the `known` ones, or from their bytes.

    Of all shards that are there, if `paths` is None.

    Workers add theirs one after the other; the manifest of all is that of a single run.
    """
    listed = read(folder)
    paths = present(folder) if paths is None else paths
    missing = {
        path.name: known.get(path.name) or entry(path)
        for path in paths
        if path.name in known or path.name not in listed
    }
    with _alone(folder):
        entries = read(folder)
        if entries != entries | missing or not (folder / NAME).exists():
            _write(folder, entries | missing)


def _alone(folder: Path) -> AbstractContextManager[None]:
    return waiting(folder.parent / f"{folder.name}.manifest")


def _write(folder: Path, entries: Mapping[str, Entry]) -> None:
    write_json(folder / NAME, {"shards": dict(entries)})
