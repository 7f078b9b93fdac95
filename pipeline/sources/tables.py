"""Rows of text, CSV, TSV, JSON and Parquet files and of datasets, each with where it stands.

One reader for prompt lists, ratings and scores, so that a file means the same everywhere. Only
columns of single values are read unless a list is asked for: pictures and embeddings stay where
they are, so a prompt list can be read out of terabytes of images.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tgo.pipeline.errors import InputError
from tgo.pipeline.sources import arrow_tables
from tgo.pipeline.sources.table_rows import Record, Table, listed

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
_LINE_END = re.compile(r"(?<=\n)|(?<=\r)(?!\n)")
"""Not str.splitlines, which also splits at form feeds, U+0085 and U+2028: those are text."""
_QUOTED = re.compile(r'"((?:[^"]|"")*)"(?=\t|\r?\n|\r|$)')
_PLAIN = re.compile(r"[^\t\r\n]*")
_SEPARATOR_LINE = re.compile(r"sep=(.)\r?\n?")
_BYTE_ORDER_MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
csv.field_size_limit(sys.maxsize)  # the default of 131,072 characters is an error, not a limit


def format_of(source: str) -> str:
    """The format of a source by its name alone: a key of `SUFFIXES`' values, or "hub"."""
    return SUFFIXES.get(Path(source).suffix.lower(), "hub")


def read(source: str, format: str | None = None, *, split: str = "train") -> Table:
    """The rows of a file, or of a dataset (a folder of one, or a hub id) and its `split`.

    Files are checked as they are read.

    Args:
        source: The file, the folder, or the id.
        format: What to read it as; None goes by its name.
        split: The part of a dataset to read; files have none.

    Returns:
        The columns, and the rows as they are asked for.

    Raises:
        InputError: naming file and line, for what is not UTF-8, not of the format, holds half of
            a surrogate pair, or cannot be read at all.
    """
    return _READERS[format or format_of(source)](source, split)


def parse_json(text: str, where: str, *, one_line: bool = False) -> Any:
    """Read a JSON text.

    Args:
        text: The text.
        where: Its file or place, for the error.
        one_line: Whether `where` names the line already.

    Returns:
        The value.

    Raises:
        InputError: for what is no JSON, nested too deeply, has a number of thousands of
            digits, or half of a surrogate pair (a character cut in two).
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        line = "" if one_line else f", line {error.lineno}"
        raise InputError(f"{where}{line}: not valid JSON ({error.msg}); mend that line") from None
    except (RecursionError, ValueError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else "a number too long"
        raise InputError(f"{where}: not usable JSON ({reason}); mend it") from None
    if "\\ud" in text.lower():  # the only way into a file that is UTF-8
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise InputError(
                f"{where}: holds half of a surrogate pair (\\ud83d or the like, a character that "
                "was cut in two); remove it"
            ) from None
    return value


def _text(source: str, split: str) -> Table:
    lines = enumerate(read_lines(source), start=1)
    records = (Record(n, {"prompt": s.strip()} if s.strip() else None) for n, s in lines)
    return Table(source, "line", ["prompt"], records)


def _csv(source: str, split: str) -> Table:
    """Comma-separated, or by what Excel writes: a first line `sep=;`, or semicolons or tabs."""
    lines = read_lines(source)
    first = next((n for n, line in enumerate(lines) if line.strip()), 0)
    named = _SEPARATOR_LINE.fullmatch(lines[first]) if lines else None
    skipped = first + 1 if named else 0
    delimiter = named[1] if named else _delimiter(lines[first] if lines else "")

    def rows() -> Iterator[tuple[int, list[str]]]:
        reader = csv.reader(lines[skipped:], strict=True, delimiter=delimiter)
        start = 1 + skipped
        try:
            for fields in reader:  # a quoted field may span lines: the first of them counts
                yield start, fields
                start = reader.line_num + 1 + skipped
        except csv.Error as error:
            raise InputError(
                f"{source}, line {start}: not valid CSV ({error}); quotes inside a quoted field "
                "are doubled, and every quote is closed"
            ) from None

    return _delimited(source, rows())


def _delimiter(header: str) -> str:
    if "," in header:
        return ","
    return next((mark for mark in (";", "\t") if mark in header), ",")


def _tsv(source: str, split: str) -> Table:
    """Tab-separated; a field in quotes may hold tabs and line breaks, any other quote is text."""
    return _delimited(source, _tsv_rows("".join(read_lines(source))))


def _tsv_rows(text: str) -> Iterator[tuple[int, list[str]]]:
    at, line = 0, 1
    while at < len(text):
        fields, start = [], line
        while True:
            match = _QUOTED.match(text, at) or _PLAIN.match(text, at)
            assert match  # the second pattern matches nothing, too
            quoted = match.re is _QUOTED
            fields.append(match[1].replace('""', '"') if quoted else match[0])
            line += match[0].count("\n")
            at = match.end() + 1
            if text[match.end() : at] != "\t":
                break
        if text[at - 1 : at + 1] == "\r\n":
            at += 1
        line += 1
        yield start, fields


def _delimited(source: str, rows: Iterator[tuple[int, list[str]]]) -> Table:
    """Rows below a line of column names, which empty lines may precede."""
    names = next((fields for _, fields in rows if any(map(str.strip, fields))), None)
    if names is None:
        raise InputError(f"{source}: is empty; write a line of column names and rows below it")
    columns = [name.strip() for name in names]
    while not columns[-1]:  # empty columns at the right, as spreadsheets leave them
        columns.pop()
    if len(set(columns)) < len(columns):
        twice = next(name for name in columns if columns.count(name) > 1)
        raise InputError(f"{source}: has two columns {twice!r}; rename one of them")

    def records() -> Iterator[Record]:
        for number, fields in rows:
            if not any(map(str.strip, fields)):
                yield Record(number, None)
                continue
            if any(map(str.strip, fields[len(columns) :])):
                raise InputError(
                    f"{source}, line {number}: has {len(fields)} fields for {len(columns)} "
                    "columns; quote fields that hold the delimiter"
                )
            missing = [""] * (len(columns) - len(fields))  # often cut off at a line's end
            values = [*fields[: len(columns)], *missing]
            yield Record(number, dict(zip(columns, values, strict=True)))

    return Table(source, "line", columns, records())


def _jsonl(source: str, split: str) -> Table:
    def records() -> Iterator[Record]:
        for number, line in enumerate(read_lines(source), start=1):
            if not line.strip():
                yield Record(number, None)
                continue
            value = parse_json(line, f"{source}, line {number}", one_line=True)
            yield Record(number, value if isinstance(value, Mapping) else {})

    return _peeked(source, "line", records())


def _json(source: str, split: str) -> Table:
    """A JSON list, of texts or of objects."""
    entries = parse_json("".join(read_lines(source)), source)
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
    return arrow_tables.read_parquet(source)


def _hub(source: str, split: str) -> Table:
    return arrow_tables.of_dataset(source, arrow_tables.load_dataset(source, split))


def read_lines(source: str) -> list[str]:
    """The lines of a UTF-8 file with their ends.

    Args:
        source: The file.

    Returns:
        The lines; a byte order mark is left out.

    Raises:
        InputError: the file cannot be read, or naming the lines that are not UTF-8.
    """
    try:
        raw = Path(source).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{source}: cannot be read ({reason}); correct the path") from None
    if raw[:2] in _BYTE_ORDER_MARKS:
        raise InputError(f"{source}: is {_BYTE_ORDER_MARKS[raw[:2]]}; save it as UTF-8")
    raw = raw.removeprefix(b"\xef\xbb\xbf")
    try:
        return [line for line in _LINE_END.split(raw.decode("utf-8")) if line]
    except UnicodeDecodeError:
        lines = raw.splitlines()
    bad = [number for number, line in enumerate(lines, start=1) if not _is_utf8(line)]
    others = f" (nor are lines {listed(bad[1:])})" if len(bad) > 1 else ""
    raise InputError(f"{source}, line {bad[0]}: not UTF-8{others}; convert the file")


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


_READERS: dict[str, Callable[[str, str], Table]] = {
    "text": _text,
    "tsv": _tsv,
    "csv": _csv,
    "jsonl": _jsonl,
    "json": _json,
    "parquet": _parquet,
    "hub": _hub,
}
