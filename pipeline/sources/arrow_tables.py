"""Rows of Parquet files and datasets, as the readers of `tables` give them.

Classes become their names (a number of a class is its place in the alphabet, and no rating),
decimals become numbers, and what newer writers store as views becomes plain text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tgo.pipeline.errors import InputError
from tgo.pipeline.read_errors import short
from tgo.pipeline.sources.table_rows import Record, Table

_NAME_ONE = (
    "name a .txt, .tsv, .csv, .jsonl, .json or .parquet file, a dataset folder or a hub dataset "
    "(and its split)"
)


def read_parquet(source: str, lists: Sequence[str] = ()) -> Table:
    """The rows of a Parquet file, checksums verified; `lists` are columns of lists to read, too."""
    try:
        schema = pq.read_schema(source)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{source}: is no Parquet file ({short(error)}); correct it") from None
    columns, of_lists = _readable(schema)
    chosen = [*columns, *lists]
    classes = _classes(schema.metadata or {})

    def tables() -> Iterator[pa.Table]:
        try:
            with pq.ParquetFile(source, page_checksum_verification=True) as file:
                yield from (pa.Table.from_batches([b]) for b in file.iter_batches(columns=chosen))
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{source}: is damaged ({short(error)}); get it again") from None

    return Table(source, "row", columns, _records(tables(), classes), lists=of_lists)


def of_dataset(name: str, rows: Any, lists: Sequence[str] = ()) -> Table:
    """The rows of a `datasets.Dataset` that is open already."""
    import datasets

    columns, of_lists = _readable(rows.features.arrow_schema)
    classes = {
        column: kind.names
        for column, kind in rows.features.items()
        if isinstance(kind, datasets.ClassLabel)
    }
    chosen = rows.select_columns([*columns, *lists]).with_format("arrow")
    return Table(
        name, "row", columns, _records(chosen.iter(batch_size=4096), classes), lists=of_lists
    )


def load_dataset(name: str, split: str) -> Any:
    """Open a dataset: a Parquet file, a saved or any other dataset folder, or one of the hub.

    Args:
        name: a .parquet file, a folder, or an id of the hub.
        split: the part of it to read, such as train.

    Returns:
        The `datasets.Dataset`.

    Raises:
        InputError: naming the damaged one of several files, the splits where it has not the one
            asked for, or why it cannot be opened.
    """
    import datasets

    path = Path(name)
    if name.endswith("/") and not path.exists():
        raise InputError(f"{name}: there is no such folder")
    try:
        if path.suffix == ".parquet":
            return datasets.load_dataset("parquet", data_files=name, split=split)
        if (path / "dataset_dict.json").is_file():
            return _split_of(name, datasets.load_from_disk(name), split)
        if (path / "dataset_info.json").is_file() and (path / "state.json").is_file():
            return datasets.load_from_disk(name)
        return datasets.load_dataset(name, split=split)
    except (
        OSError,
        ValueError,
        RuntimeError,
        KeyError,
        TypeError,
        pa.ArrowException,
        datasets.exceptions.DatasetsError,
    ) as error:
        raise InputError(_why_not(path, error)) from None


def _split_of(name: str, splits: Mapping[str, Any], split: str) -> Any:
    if split not in splits:
        raise InputError(f"{name}: has no split {split!r}, but {', '.join(splits)}; use --split")
    return splits[split]


def _why_not(path: Path, error: Exception) -> str:
    """Why a dataset cannot be opened; of several files the damaged one is looked for."""
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    for file in files:
        if file.suffix == ".parquet" and file.is_file():
            try:
                with pq.ParquetFile(file, page_checksum_verification=True) as opened:
                    for number in range(opened.num_row_groups):
                        opened.read_row_group(number)
            except (pa.ArrowException, OSError) as damage:
                return f"{file}: is no whole Parquet file ({short(damage)}); get it again"
    if "scripts are no longer supported" in str(error):
        return (
            f"{path}: has a loading script, which `datasets` no longer runs ({short(error)}); name "
            "its .csv, .jsonl or .parquet file, or a version of it without a script"
        )
    return f"{path}: cannot be opened as a dataset ({short(error)}); {_NAME_ONE}"


def _records(tables: Iterator[pa.Table], classes: Mapping[str, Sequence[str]]) -> Iterator[Record]:
    number = 0
    for table in tables:
        for values in table.to_pylist():
            number += 1
            for column, value in values.items():
                if isinstance(value, Decimal):
                    values[column] = float(value)
                elif column in classes and isinstance(value, int):
                    names = classes[column]
                    values[column] = names[value] if 0 <= value < len(names) else None
            yield Record(number, values)


def _classes(metadata: Mapping[bytes, bytes]) -> dict[str, list[str]]:
    """Names of classes by column, from what `datasets` writes into a Parquet file."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {})["features"]
        return {
            column: list(kind["names"])
            for column, kind in features.items()
            if isinstance(kind, dict) and kind.get("_type") == "ClassLabel"
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}  # it only names classes; the values are read without it


def _readable(schema: pa.Schema) -> tuple[list[str], list[str]]:
    """The columns of single values, and those of lists of them."""
    single = [field.name for field in schema if _is_single(field.type)]
    lists = [
        field.name
        for field in schema
        if _is_list(field.type) and (_is_single(field.type.value_type) or _is_records(field.type))
    ]
    return single, lists


def _is_single(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_primitive(kind) or pa.types.is_decimal(kind) or _is_text(kind))


def _is_text(kind: pa.DataType) -> bool:
    checks = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(check(kind) for check in checks)


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _is_records(kind: pa.DataType) -> bool:
    """Whether a list holds small records, such as the answers of several raters."""
    inner = kind.value_type
    return bool(pa.types.is_struct(inner)) and all(_is_single(field.type) for field in inner)
