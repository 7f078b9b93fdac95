"""Writing a scored shard: row by row, checksummed, under its name only when it is whole."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypedDict

import pyarrow as pa
import pyarrow.parquet as pq

from tgo.pipeline.storage.atomic import replacing

ROWS_PER_GROUP = 64  # what a reader of one row group has to hold; a shuffle's unit
_WRITTEN_AS_IS = ("image.bytes", "image.path", "latents.list.element")


class Entry(TypedDict):
    """What the manifest says of a shard."""

    rows: int
    bytes: int
    sha256: str


@contextmanager
def writing(path: Path, schema: pa.Schema) -> Iterator[Writer]:
    """A shard to add rows to as they are made; it takes its name when the block ends well.

    Every page carries a checksum. Images and latents are neither compressed nor dictionary-coded:
    they would not shrink, and readers can map them. A full disk is an InputError.
    """
    columns = [name for name in schema.names if name not in ("image", "latents")]
    compression = dict.fromkeys(columns, "zstd") | dict.fromkeys(_WRITTEN_AS_IS, "none")
    with replacing(path) as file:
        hashing = _Hashing(file)
        with pq.ParquetWriter(
            hashing,
            schema,
            compression=compression,
            use_dictionary=[
                name for name in columns if pa.types.is_string(schema.field(name).type)
            ],
            write_page_checksum=True,
            write_page_index=True,
            use_content_defined_chunking=True,
        ) as parquet:
            shard = Writer(schema, parquet, hashing)
            yield shard
            shard.flush()


class Writer:
    """Rows into whole row groups; holds at most one of them."""

    def __init__(self, schema: pa.Schema, parquet: pq.ParquetWriter, file: _Hashing) -> None:
        self.schema = schema
        self._parquet, self._file = parquet, file
        self._held: list[pa.Table] = []
        self._rows = 0

    def add(self, table: pa.Table) -> None:
        """Add rows of the schema; they are written as soon as they fill row groups."""
        self._held.append(table)
        held = pa.concat_tables(self._held)
        full = held.num_rows - held.num_rows % ROWS_PER_GROUP
        if full:
            self._write(held.slice(0, full))
            self._held = [held.slice(full)]

    def flush(self) -> None:
        """Write what is left, though it fill no row group."""
        self._write(pa.concat_tables(self._held) if self._held else None)
        self._held = []

    def entry(self) -> Entry:
        """The manifest's entry, once the shard has its name."""
        return {"rows": self._rows, "bytes": self._file.bytes, "sha256": self._file.sha256()}

    def _write(self, table: pa.Table | None) -> None:
        if table is not None and table.num_rows:
            self._parquet.write_table(table, ROWS_PER_GROUP)
            self._rows += table.num_rows


class _Hashing:
    """A file that is written once from front to end, hashed on the way: no second reading."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._total, self.bytes = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self._total.update(data)
        self.bytes += len(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def tell(self) -> int:
        return self.bytes

    def sha256(self) -> str:
        return self._total.hexdigest()
