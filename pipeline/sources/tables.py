"""Rows of text, CSV, TSV, JSON and Parquet files and of datasets, each with where it stands.

Only columns of single values are read: pictures and embeddings in a Parquet file or dataset stay
where they are, so a prompt list can be read out of terabytes of images.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from tgo.pipeline.errors import InputError

SUFFIXES = {
    ".txt": "text",
    ".tsv": "tsv",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
}
"""Formats by the end of a file's name; anything else is a dataset (`hub`)."""
LISTED = 8
"""Line numbers that an error or a warning lists before it only counts."""
_QUOTED = re.compile(r'"(?:[^"]|"")*"')
_BYTE_ORDER_MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


class Record(NamedTuple):
    """One row: its number from 1, and its values by column; None for an empty line."""

    number: int
    values: Mapping[str, Any] | None


@dataclass(frozen=True)
class Table:
    """Rows of one source; `unit` says what their numbers count: "line" or "row"."""

    name: str
    unit: str
    columns: list[str]
    records: Iterator[Record]
    fixed: bool = True
    """Whether every row has these columns; JSON objects may each have their own."""

    def where(self, number: int) -> str:
        """A row's place in words, for messages."""
        return f"{self.name}, {self.unit} {number}"


def format_of(source: str) -> str:
    """The format of a source by its name alone: a key of `SUFFIXES`' values, or "hub"."""
    return SUFFIXES.get(Path(source).suffix.lower(), "hub")


def read(source: str, format: str | None = None, *, split: str = "train") -> Table:
    """The rows of a file, or of a dataset (a folder of one, or a hub id) and its `split`.

    Files are checked as they are read. Raises InputError naming file and line for what is not
    UTF-8, not of the format, or cannot be read at all.
    """
    return _READERS[format or format_of(source)](source, split)


def listed(numbers: Sequence[int]) -> str:
    """Numbers in words: the first `LISTED` of them, and how many more there are."""
    shown = ", ".join(map(str, numbers[:LISTED]))
    return shown if len(numbers) <= LISTED else f"{shown} and {len(numbers) - LISTED:,} more"


def _text(source: str, split: str) -> Table:
    lines = enumerate(_lines(source), start=1)
    records = (Record(n, {"prompt": s.strip()} if s.strip() else None) for n, s in lines)
    return Table(source, "line", ["prompt"], records)


def _csv(source: str, split: str) -> Table:
    reader = csv.reader(_lines(source), strict=True)

    def rows() -> Iterator[tuple[int, list[str]]]:
        start = 1
        try:
            for fields in reader:  # a quoted field may span lines: the first of them counts
                yield start, fields
                start = reader.line_num + 1
        except csv.Error as error:
            raise InputError(f"{source}, line {start}: not valid CSV ({error}); mend it") from None

    return _delimited(source, rows())


def _tsv(source: str, split: str) -> Table:
    """Tab-separated: no quoting, but a field that is quoted as a whole is taken out of it."""

    def unquoted(field: str) -> str:
        return field[1:-1].replace('""', '"') if _QUOTED.fullmatch(field) else field

    lines = enumerate((line.rstrip("\r\n").split("\t") for line in _lines(source)), start=1)
    return _delimited(source, ((number, list(map(unquoted, fields))) for number, fields in lines))


def _delimited(source: str, rows: Iterator[tuple[int, list[str]]]) -> Table:
    """Rows below a line of column names, which empty lines may precede."""
    names = next((fields for _, fields in rows if any(map(str.strip, fields))), None)
    if names is None:
        raise InputError(f"{source}: is empty; write a line of column names and rows below it")
    columns = [name.strip() for name in names]
    if len(set(columns)) < len(columns):
        twice = next(name for name in columns if columns.count(name) > 1)
        raise InputError(f"{source}: has two columns {twice!r}; rename one of them")

    def records() -> Iterator[Record]:
        for number, fields in rows:
            if not any(map(str.strip, fields)):
                yield Record(number, None)
                continue
            if len(fields) > len(columns):
                raise InputError(
                    f"{source}, line {number}: has {len(fields)} fields for {len(columns)} "
                    "columns; quote fields that hold the delimiter"
                )
            missing = [""] * (len(columns) - len(fields))  # often cut off at a line's end
            yield Record(number, dict(zip(columns, [*fields, *missing], strict=True)))

    return Table(source, "line", columns, records())


def _jsonl(source: str, split: str) -> Table:
    def records() -> Iterator[Record]:
        for number, line in enumerate(_lines(source), start=1):
            if not line.strip():
                yield Record(number, None)
                continue
            try:
                value = json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(
                    f"{source}, line {number}: not valid JSON ({error.msg}); mend that line"
                ) from None
            yield Record(number, value if isinstance(value, Mapping) else {})

    return _peeked(source, "line", records())


def _json(source: str, split: str) -> Table:
    """A JSON list, of texts or of objects."""
    try:
        entries = json.loads("".join(_lines(source)))
    except json.JSONDecodeError as error:
        raise InputError(
            f"{source}, line {error.lineno}: not valid JSON ({error.msg}); mend that line"
        ) from None
    if not isinstance(entries, list):
        raise InputError(f"{source}: is no JSON list; write [...] or one object a line (.jsonl)")

    def record(number: int, entry: Any) -> Record:
        if isinstance(entry, str):
            return Record(number, {"prompt": entry} if entry.strip() else None)
        return Record(number, entry if isinstance(entry, Mapping) else {})

    return _peeked(source, "entry", (record(n, e) for n, e in enumerate(entries, start=1)))


def _peeked(source: str, unit: str, records: Iterator[Record]) -> Table:
    """A table whose columns are those of its first row."""
    begun: list[Record] = []
    for record in records:
        begun.append(record)
        if record.values is not None:
            break
    columns = list(begun[-1].values or {}) if begun else []

    def every() -> Iterator[Record]:
        yield from begun
        yield from records

    return Table(source, unit, columns, every(), fixed=False)


def _parquet(source: str, split: str) -> Table:
    try:
        schema = pq.read_schema(source)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{source}: is no Parquet file ({_short(error)}); correct it") from None
    columns = [field.name for field in schema if _is_single(field.type)]

    def tables() -> Iterator[pa.Table]:
        try:
            with pq.ParquetFile(source, page_checksum_verification=True) as file:
                yield from (pa.Table.from_batches([b]) for b in file.iter_batches(columns=columns))
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{source}: is damaged ({_short(error)}); get it again") from None

    return Table(source, "row", columns, _rows(tables()))


def of_dataset(name: str, rows: Any) -> Table:
    """The rows of a `datasets.Dataset` that is open already."""
    kinds = rows.features.arrow_schema
    columns = [name for name in rows.column_names if _is_single(kinds.field(name).type)]
    return Table(name, "row", columns, _rows(_dataset_tables(rows.select_columns(columns))))


def load_dataset(place: str, split: str) -> Any:
    """A `datasets.Dataset`: a saved or any other dataset folder, or one of the hub."""
    import datasets

    path = Path(place)
    try:
        if path.suffix == ".parquet":
            return datasets.load_dataset("parquet", data_files=place, split=split)
        if (path / "dataset_info.json").is_file() and (path / "state.json").is_file():
            return datasets.load_from_disk(place)
        return datasets.load_dataset(place, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise InputError(
            f"{place}: cannot be opened as a dataset ({_short(error)}); name a .txt, .tsv, .csv, "
            ".jsonl, .json or .parquet file, a dataset folder or a hub dataset (and its split)"
        ) from None


def _hub(source: str, split: str) -> Table:
    return of_dataset(source, load_dataset(source, split))


def _dataset_tables(rows: Any) -> Iterator[pa.Table]:
    yield from rows.with_format("arrow").iter(batch_size=4096)


def _rows(tables: Iterator[pa.Table]) -> Iterator[Record]:
    number = 0
    for table in tables:
        for values in table.to_pylist():
            number += 1
            yield Record(number, values)


def _is_single(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_primitive(kind) or _is_text(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _lines(source: str) -> list[str]:
    """The lines of a UTF-8 file with their ends; InputError names those that are something else."""
    try:
        raw = Path(source).read_bytes()
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error.strerror}); correct the path") from None
    if raw[:2] in _BYTE_ORDER_MARKS:
        raise InputError(f"{source}: is {_BYTE_ORDER_MARKS[raw[:2]]}; save it as UTF-8")
    lines, bad = [], []
    for number, line in enumerate(raw.removeprefix(b"\xef\xbb\xbf").splitlines(True), start=1):
        try:
            lines.append(line.decode("utf-8"))
        except UnicodeDecodeError:
            bad.append(number)
    if bad:
        others = f" (nor are lines {listed(bad[1:])})" if len(bad) > 1 else ""
        raise InputError(f"{source}, line {bad[0]}: not UTF-8{others}; convert the file")
    return lines


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:160]


_READERS: dict[str, Callable[[str, str], Table]] = {
    "text": _text,
    "tsv": _tsv,
    "csv": _csv,
    "jsonl": _jsonl,
    "json": _json,
    "parquet": _parquet,
    "hub": _hub,
}
