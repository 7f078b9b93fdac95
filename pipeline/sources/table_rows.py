"""What a table is to its readers: rows in order, each with where it stands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

LISTED = 8
"""Line numbers that an error or a warning lists before it only counts."""


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
    lists: list[str] = field(default_factory=list)
    """Columns of lists, which the records hold only where they were asked for."""

    @property
    def units(self) -> str:
        """The unit in the plural."""
        return "entries" if self.unit == "entry" else f"{self.unit}s"

    def where(self, number: int) -> str:
        """A row's place in words, for messages."""
        return f"{self.name}, {self.unit} {number}"


def listed(numbers: Sequence[int]) -> str:
    """Numbers in words: the first `LISTED` of them, and how many more there are."""
    shown = ", ".join(map(str, numbers[:LISTED]))
    return shown if len(numbers) <= LISTED else f"{shown} and {len(numbers) - LISTED:,} more"
