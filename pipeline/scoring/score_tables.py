"""Scores that already exist: tables of ids and scores that join the shards as further columns."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from tgo.pipeline.errors import InputError
from tgo.pipeline.sources import tables
from tgo.pipeline.sources.table_rows import Table
from tgo.pipeline.storage.atomic import canonical

ID, RATER = "id", "rater"
"""A table with raters, such as the answers to `tgo ask`, may have several rows of an id."""
NO_SCORES = (ID, RATER, "part", "parts", "seconds", "question")
log = logging.getLogger(__name__)


class ScoreTables:
    """Some columns of scores by image id; none at all for an empty mapping."""

    def __init__(self, files: Mapping[str, str]) -> None:
        """Read the tables.

        Args:
            files: by column the file that holds it beside a column `id`.

        Raises:
            InputError: naming file, row and column, where a file cannot be read, lacks a column,
                names an id twice, or holds something that is no finite number.
        """
        self._scores = {name: _read(name, Path(file)) for name, file in files.items()}
        self._facts = {name: _facts(Path(files[name]), own) for name, own in self._scores.items()}

    @property
    def names(self) -> list[str]:
        """The columns."""
        return list(self._scores)

    def describe(self) -> dict[str, dict[str, Any]]:
        """What is known of each column, as of a reward model; decides what a shard holds."""
        return self._facts

    def columns(self, ids: Sequence[str], only: Iterable[str]) -> dict[str, pa.Array]:
        """Scores of some images.

        Args:
            ids: N images.
            only: names of columns.

        Returns:
            float32 [N] by name, null where a table does not name the image.
        """
        return {
            name: pa.array([self._scores[name].get(key) for key in ids], pa.float32())
            for name in only
        }

    def check_ids(self, known: Iterable[str]) -> None:
        """Say what the tables and the images do not share.

        Args:
            known: the ids of all images.

        Raises:
            InputError: a table names none of the images.
        """
        images = set(known)
        for name, scores in self._scores.items():
            found = len(images & scores.keys())
            if not found:
                example = next(iter(sorted(scores)), "none")
                raise InputError(
                    f"score.tables.{name}: names none of the images ({example!r} is its first id); "
                    'its column id must hold the ids of data/scored (`tgo sql "select id from '
                    'scored"`)'
                )
            if found < len(images) or found < len(scores):
                log.warning(
                    "score.tables.%s: has scores of %s of %s images, and %s ids of none",
                    name,
                    f"{found:,}",
                    f"{len(images):,}",
                    f"{len(scores) - found:,}",
                )


def score_columns(file: Path) -> list[str]:
    """The columns of numbers of a table; InputError where it has no column `id`, or no other.

    A column counts by its first value; those that every table of `tgo ask` has are left out.
    """
    found: dict[str, Any] = {}
    for _, row in _open(file).records:
        for name, value in (row or {}).items():
            if value not in (None, ""):
                found.setdefault(name, value)
    names = [name for name in found if name not in NO_SCORES and _number(found[name]) is not None]
    if not names:
        raise InputError(f"{file}: has no column of numbers beside {ID!r}")
    return names


def _open(file: Path) -> Table:
    """A table that has ids."""
    if not file.is_file():
        raise InputError(f"{file}: no such file; correct the path")
    table = tables.read(str(file))
    if ID not in table.columns:
        raise InputError(f"{file}: has no column {ID!r}, but {', '.join(table.columns)}")
    return table


def _only_column(name: str, file: Path) -> str:
    """The one column of numbers of a table that has none of the name."""
    found = score_columns(file)
    if len(found) > 1:
        raise InputError(
            f"{file}: has no column {name!r}, but {', '.join(found)}; name one of them under "
            "score.tables"
        )
    return found[0]


def _read(name: str, file: Path) -> dict[str, float]:
    table = _open(file)
    column = name if name in table.columns else _only_column(name, file)
    several = RATER in table.columns
    found: dict[str, list[float]] = {}
    for number, row in table.records:
        if row is None or row.get(column) in (None, ""):
            continue
        key, value = str(row[ID]), _number(row[column])
        if value is None:
            raise InputError(
                f"{table.where(number)}: {column} is {row[column]!r:.40}; write a finite number or "
                "nothing"
            )
        if key in found and not several:
            raise InputError(f"{table.where(number)}: id {key!r} is there twice; keep one row")
        found.setdefault(key, []).append(value)
    return {key: math.fsum(values) / len(values) for key, values in found.items()}


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _facts(file: Path, scores: Mapping[str, float]) -> dict[str, Any]:
    content = canonical(sorted(scores.items()))
    return {
        "model": file.name,
        "version": "table",
        "unit": f"as in {file.name}",
        "checkpoint_sha256": hashlib.sha256(content.encode()).hexdigest(),
        "dtype": "float32",
    }
