"""`.manifest.json` of a shard folder: rows, bytes and sha256 of every shard.

It is derived: made from the shards when missing, and the same bytes whoever makes it. It carries a
checksum of itself, so that a damaged manifest is no reason to doubt a shard.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from tgo.pipeline import read_errors
from tgo.pipeline.storage.atomic import canonical, write_json
from tgo.pipeline.storage.locks import waiting
from tgo.pipeline.storage.shards import present
from tgo.rewards.checksum import file_sha256

if TYPE_CHECKING:
    from tgo.pipeline.storage.shard_writer import Entry

NAME = ".manifest.json"
log = logging.getLogger(__name__)


def read(folder: Path) -> dict[str, Entry]:
    """Read the manifest of a folder.

    Args:
        folder: the folder of shards.

    Returns:
        Entries by file name; empty if there is no manifest, or none with its own checksum.

    Raises:
        InputError: it is there and cannot be read just now.
    """
    path = folder / NAME
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        shards: dict[str, Entry] = value["shards"]
        if value["sha256"] != _sha256(shards):
            raise ValueError("its checksum is wrong")
        return shards
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise read_errors.explain(path, error, "run the stage again") from None
    except (ValueError, KeyError, TypeError) as error:
        log.warning("%s: is damaged (%s); made again from the shards", path, error)
        return {}


def entry(path: Path) -> Entry:
    """The entry of a shard as it lies there.

    Args:
        path: the shard.

    Returns:
        Its rows, bytes and SHA-256.

    Raises:
        InputError: it cannot be read, or (a DamagedError) is no shard.
    """
    try:
        rows = pq.read_metadata(path).num_rows
        return {"rows": rows, "bytes": path.stat().st_size, "sha256": file_sha256(path)}
    except (OSError, pa.ArrowException) as error:
        raise read_errors.explain(path, error, "run the stage that writes it again") from None


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
    folder = folder.resolve()
    return waiting(folder.parent / f"{folder.name}.manifest")


def _write(folder: Path, entries: Mapping[str, Entry]) -> None:
    write_json(folder / NAME, {"sha256": _sha256(entries), "shards": dict(entries)})


def _sha256(entries: Mapping[str, Entry]) -> str:
    return hashlib.sha256(canonical(entries).encode()).hexdigest()
