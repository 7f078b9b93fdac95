"""The answers on disk: a plain table that `tgo import` reads, an answer a line or lines.

An answer is on the disk before the next question is shown. What is no feedback (skipped questions,
those with known answers, repetitions) has a table of its own.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tgo.pipeline import layout
from tgo.pipeline.documents import read_json
from tgo.pipeline.errors import InputError
from tgo.pipeline.storage.atomic import canonical, explain, replacing, write_json

TABLE, CHECKS = layout.ANSWERS, "checks.jsonl"
Row = dict[str, Any]


class Answers:
    """Everything that was answered in one folder; hold its lock, and call it from one thread."""

    def __init__(self, folder: Path, setup: dict[str, Any]) -> None:
        """Open a folder of answers, or begin one.

        Args:
            folder: Where they lie.
            setup: What is asked; an earlier one must be the same.

        Raises:
            InputError: the folder holds something else, answers to other questions, or a line
                that is no answer.
        """
        self.folder, self.setup = folder, setup
        _begin(folder, setup)
        self._rows = {name: _read(folder / name) for name in (TABLE, CHECKS)}
        self._last: dict[str, list[tuple[str, str]]] = {}
        every = [(row["answered"], name, row) for name, rows in self._rows.items() for row in rows]
        for _, name, row in sorted(every, key=lambda each: each[0]):
            self._remember(name, row)

    @property
    def rows(self) -> Sequence[Row]:
        """The rows of feedback."""
        return self._rows[TABLE]

    @property
    def checks(self) -> Sequence[Row]:
        """The rows of skipped, known and repeated questions."""
        return self._rows[CHECKS]

    def of(self, rater: str) -> list[Row]:
        """What a rater answered: the rows of feedback."""
        return [row for row in self.rows if row["rater"] == rater]

    def counts(self) -> Counter[str]:
        """Raters who answered, by question."""
        return Counter(key for key, _ in {(row["question"], row["rater"]) for row in self.rows})

    def done_by(self, rater: str) -> list[str]:
        """The questions that a rater answered or skipped, in turn; repeated ones twice."""
        return [key for _, key in self._last.get(rater, ())]

    def add(self, rows: Sequence[Row], table: str) -> None:
        """Append one answer, and wait until it is on the disk.

        Args:
            rows: Of one rater and question.
            table: `TABLE` or `CHECKS`.

        Raises:
            InputError: the disk is full or forbids it; the answer does not count then.
        """
        text = _text(rows)
        path = self.folder / table
        try:
            file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                size = os.fstat(file).st_size
                try:
                    _write(file, text)
                    os.fsync(file)
                except OSError:
                    os.ftruncate(file, size)
                    raise
            finally:
                os.close(file)
        except OSError as error:
            raise InputError(f"{path}: {explain(error)}") from error
        self._rows[table] += rows
        self._remember(table, rows[0])

    def undo(self, rater: str) -> Row | None:
        """Take a rater's last answer back.

        Args:
            rater: Whose.

        Returns:
            Its first row; None where nothing is left to take back.
        """
        if not self._last.get(rater):
            return None
        table, key = self._last[rater][-1]
        rows = self._rows[table]
        whose = [(row["rater"], row["question"]) == (rater, key) for row in rows]
        kept = [row for row, mine in zip(rows, whose, strict=True) if not mine]
        _replace(self.folder / table, kept)
        self._rows[table] = kept
        self._last[rater].pop()
        return rows[whose.index(True)]

    def _remember(self, table: str, row: Row) -> None:
        stack = self._last.setdefault(row["rater"], [])
        if (table, row["question"]) not in stack:
            stack.append((table, row["question"]))


def _begin(folder: Path, setup: dict[str, Any]) -> None:
    path = folder / layout.QUESTIONS
    if not path.exists():
        if folder.exists() and any(folder.iterdir()):
            raise InputError(
                f"{folder}: exists and holds no answers (no {path.name}); choose another folder "
                "with --output"
            )
        write_json(path, setup)
        return
    earlier = read_json(path, "choose another --output")
    for key, value in setup.items():
        if not isinstance(earlier, dict) or earlier.get(key) != value:
            before = earlier.get(key) if isinstance(earlier, dict) else earlier
            raise InputError(
                f"{folder}: holds answers with {key} {before!r}, and now it is {value!r}; choose "
                "another folder with --output"
            )


def _read(path: Path) -> list[Row]:
    """The rows of a table; an answer that a power cut left unfinished is cut off."""
    if not path.exists():
        return []
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    rows = list(_parsed(path, whole.splitlines()))
    there = Counter((row["rater"], row["question"]) for row in rows)
    whole_rows = [row for row in rows if there[row["rater"], row["question"]] >= row["parts"]]
    if len(whole) < len(data) or len(whole_rows) < len(rows):
        _replace(path, whole_rows)
    return whole_rows


def _parsed(path: Path, lines: Iterable[bytes]) -> Iterable[Row]:
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            texts = [row["rater"], row["question"], row["answered"]]
            if not all(isinstance(text, str) for text in texts) or row["parts"] < 1:
                raise ValueError("a value of the wrong kind")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(
                f"{path}, line {number}: is no answer ({error!r:.80}); mend or remove that line"
            ) from None
        yield row


def _replace(path: Path, rows: Sequence[Row]) -> None:
    with replacing(path) as file:
        file.write(_text(rows))


def _text(rows: Sequence[Row]) -> bytes:
    return "".join(canonical(row) + "\n" for row in rows).encode()


def _write(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]
