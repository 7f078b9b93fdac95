"""`tgo sql`: DuckDB over the shards, as tables `scored`, `labelled` and `images`.

Pictures and latents lie in `images` alone, so nothing reads them unless a query names it. What is
there is shown, a finished folder or not.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgo.pipeline.errors import InputError
from tgo.pipeline.storage import shards
from tgo.pipeline.wording import harmless

if TYPE_CHECKING:
    import duckdb
    from rich.table import Table

_CLOSED: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": False,  # what a query can do must not depend on the network
    "autoload_known_extensions": False,
    "python_enable_replacements": False,  # a table is never one of our own variables
}
HEAVY = ("image", "latents")
_BATCH = 1024
_WIDE = 6
"""Columns up to which a table that does not fit is folded instead."""
_STAGE = {"scored": "tgo score", "labelled": "tgo label", "images": "tgo score"}


class Answer:
    """The rows of a query, fetched as they are asked for."""

    def __init__(self, cursor: duckdb.DuckDBPyConnection) -> None:
        self._cursor = cursor
        self.columns = [str(column[0]) for column in cursor.description or ()]

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Every row; InputError for a fault that only shows while reading."""
        import duckdb

        try:
            while batch := self._cursor.fetchmany(_BATCH):
                yield from batch
        except duckdb.Error as error:
            raise InputError(f"sql: {_one_line(error)}") from None


def ask(query: str, *, scored: Path, labelled: Path) -> Answer:
    """Run SQL over the shards of two folders.

    Raises InputError in one line for bad SQL, and naming the stage to run where a table is asked
    for whose shards are not there.
    """
    import duckdb

    connection = duckdb.connect(config=_CLOSED)
    try:
        tables = _add_views(connection, scored, labelled)
        if (cursor := connection.execute(query)) is None:  # nothing but blanks and comments
            raise InputError("sql: the query is empty; write one, such as 'select * from scored'")
        return Answer(cursor)
    except duckdb.CatalogException as error:
        missing = [name for name in _STAGE if name not in tables and f"name {name} " in str(error)]
        if missing:
            folder = labelled if missing[0] == "labelled" else scored
            raise InputError(
                f"{folder}: holds no shards, so there is no table {missing[0]}; run "
                f"`{_STAGE[missing[0]]}` first"
            ) from None
        raise InputError(f"sql: {_one_line(error)}") from None
    except duckdb.Error as error:
        raise InputError(f"sql: {_one_line(error)}") from None


def show(answer: Answer, limit: int) -> None:
    """Print the first `limit` rows as a table, and say if there are more.

    Where many columns would not fit into the terminal, a line a value instead.
    """
    from rich.console import Console

    rows = answer.rows()
    shown = [list(map(_cell, row)) for _, row in zip(range(limit), rows, strict=False)]
    console = Console()
    table = _table(answer.columns, shown)
    columns = zip(answer.columns, *shown, strict=True)
    width = sum(max(map(len, column)) + 2 for column in columns)
    if len(answer.columns) > _WIDE and width > console.width:
        for row in shown:
            console.print(_table(["", ""], zip(answer.columns, row, strict=True)))
    else:
        console.print(table)
    if next(rows, None) is not None:
        console.print(f"... the first {limit:,} rows; --rows shows more, --csv all")


def _table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=any(columns))
    for column in columns:
        table.add_column(escape(column), overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def write_csv(answer: Answer) -> None:
    """Print every row as CSV."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(answer.columns)
    writer.writerows(map(_inert, row) for row in answer.rows())


def _inert(value: Any) -> Any:
    """A text that a spreadsheet would take for a formula, marked as text; numbers stay."""
    if not isinstance(value, str):
        return value
    formula = value.lstrip().startswith(("=", "+", "-", "@")) or value.startswith(("\t", "\r"))
    return f"'{value}" if formula else value


def _add_views(
    connection: duckdb.DuckDBPyConnection, scored: Path, labelled: Path
) -> dict[str, list[str]]:
    """Make a view of each folder that holds shards; returns their columns by name."""
    views: dict[str, list[str]] = {}
    for name, folder in (("scored", scored), ("labelled", labelled)):
        paths = [str(path) for path in shards.present(folder)]
        if not paths:
            continue
        every = connection.read_parquet(paths, union_by_name=True)
        light = [column for column in every.columns if column not in HEAVY]
        every.project(", ".join(f'"{column}"' for column in light)).create_view(name)
        views[name] = light
        heavy = [column for column in HEAVY if column in every.columns]
        if heavy:
            every.project(", ".join(["id", *heavy])).create_view("images")
            views["images"] = ["id", *heavy]
    return views


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, bytes):
        return f"<{len(value):,} bytes>"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_cell(item)}' for key, item in value.items())}}}"
    if isinstance(value, list) and len(value) > 4:
        return f"[{', '.join(map(_cell, value[:4]))}, ... {len(value):,} in all]"
    return harmless(str(value))


def _one_line(error: Exception) -> str:
    """DuckDB's reason without the drawing of the query below it."""
    text = str(error).split("\n\nLINE")[0]
    return " ".join(text.split())
