"""`tgo inspect`: what the scores of a folder look like, in figures; no model is loaded.

Holds the score columns in memory, 4 bytes a score; pictures stay on disk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tgo.pipeline.errors import InputError
from tgo.pipeline.labelling.score_reader import numbers, rows_ok
from tgo.pipeline.storage import shards
from tgo.pipeline.wording import TITLES, Formats, harmless, minus

QUANTILES = ((0.0, "min"), (0.05, "5 %"), (0.5, "median"), (0.95, "95 %"), (1.0, "max"))

Scores = NDArray[np.float32]


@dataclass(frozen=True)
class Column:
    """The scores of one reward model over all rows of a folder."""

    name: str
    unit: str
    scores: Scores
    """[N] in shard order; NaN where a row has none."""
    missing: int
    """Rows that did not fail and have no score."""

    @property
    def title(self) -> str:
        """Its name in print."""
        return TITLES[self.name]

    @cached_property
    def there(self) -> Scores:
        """The scores that there are, [n] ascending."""
        return np.sort(self.scores[np.isfinite(self.scores)])

    @cached_property
    def mean(self) -> float:
        """Of the scores that there are; NaN for none."""
        return float(self.there.mean(dtype=np.float64)) if len(self.there) else float("nan")

    @cached_property
    def std(self) -> float:
        """Standard deviation over images; NaN for none."""
        return float(self.there.std(dtype=np.float64)) if len(self.there) else float("nan")

    def quantile(self, share: float) -> float:
        """An order statistic: the smallest score that `share` of all do not exceed."""
        if not len(self.there):
            return float("nan")
        return float(self.there[max(int(np.ceil(share * len(self.there))) - 1, 0)])


@dataclass(frozen=True)
class Overview:
    """What a folder of scored shards holds."""

    folder: Path
    paths: list[Path]
    rows: int
    prompts: int
    errors: Counter[str]
    """Reasons of failed rows with their number."""
    columns: list[Column]
    ratings: int | None
    """How many ratings the images have in all; None if they are not imported."""

    @property
    def summary(self) -> str:
        """What there is, in one line."""
        rated = f", {self.ratings:,} ratings" if self.ratings is not None else ""
        return (
            f"{self.folder}: {self.rows:,} images of {self.prompts:,} prompts in "
            f"{len(self.paths)} shards{rated}, {sum(self.errors.values()):,} failed"
        )

    @property
    def formats(self) -> Formats:
        """How to print each reward model's scores."""
        return Formats({c.name: c.std if np.isfinite(c.std) else 0.0 for c in self.columns})

    def correlations(self) -> NDArray[np.float64]:
        """Pearson's r of each two reward models [K, K] over rows that have both.

        NaN where it is undefined.
        """
        count = len(self.columns)
        found = np.full((count, count), np.nan)
        for one, first in enumerate(self.columns):
            for other, second in enumerate(self.columns[: one + 1]):
                both = np.isfinite(first.scores) & np.isfinite(second.scores)
                pair = np.stack([first.scores[both], second.scores[both]]).astype(np.float64)
                if both.sum() > 1 and pair.std(axis=1).all():
                    centred = pair - pair.mean(axis=1, keepdims=True)
                    found[one, other] = (centred[0] * centred[1]).mean() / pair.std(axis=1).prod()
                    found[other, one] = found[one, other]
        return found


def look(folder: Path) -> Overview:
    """Read the score columns of a folder of scored shards.

    Raises InputError if it holds none, not all of them, or no reward model's scores.
    """
    paths = shards.shard_paths(folder)
    metadata = shards.read_metadata(paths[0])
    rewards: dict[str, dict[str, Any]] = metadata.get("tgo.rewards", {})
    if not rewards:
        raise InputError(f"{folder}: holds no scored shards; name a folder such as data/scored")
    counted = "n_ratings" in shards.read_schema(paths[0]).names
    parts: dict[str, list[Scores]] = {name: [] for name in rewards}
    usable: list[NDArray[np.bool_]] = []
    prompts: set[str] = set()
    errors: Counter[str] = Counter()
    ratings = 0
    wanted = ["status", "error", "prompt_id", *rewards, *(["n_ratings"] if counted else [])]
    for path in paths:
        for table in shards.batches(path, wanted):
            usable.append(rows_ok(table))
            prompts.update(pc.unique(table["prompt_id"]).to_pylist())
            errors.update(table.filter(pa.array(~usable[-1]))["error"].to_pylist())
            ratings += (pc.sum(table["n_ratings"]).as_py() or 0) if counted else 0
            for name, scores in parts.items():
                scores.append(np.where(usable[-1], numbers(table[name]), np.float32(np.nan)))
    fine = np.concatenate(usable)
    columns = [
        _column(name, facts["unit"], np.concatenate(parts[name]), fine)
        for name, facts in rewards.items()
    ]
    told = ratings if counted else None
    return Overview(folder, paths, len(fine), len(prompts), errors, columns, told)


def _column(name: str, unit: str, scores: Scores, fine: NDArray[np.bool_]) -> Column:
    return Column(name, unit, scores, int((fine & ~np.isfinite(scores)).sum()))


def as_json(found: Overview) -> dict[str, Any]:
    """The same for scripts; a figure that cannot be computed is null."""
    matrix = found.correlations()
    return {
        "folder": str(found.folder),
        "images": found.rows,
        "prompts": found.prompts,
        "shards": len(found.paths),
        "failed": dict(found.errors),
        "ratings": found.ratings,
        "scores": {
            column.name: {
                "unit": column.unit,
                "count": len(column.there),
                "missing": column.missing,
                "mean": _finite(column.mean),
                "std": _finite(column.std),
                "quantiles": {f"{q:g}": _finite(column.quantile(q)) for q, _ in QUANTILES},
                "correlations": {
                    other.name: _finite(matrix[row, place])
                    for place, other in enumerate(found.columns)
                },
            }
            for row, column in enumerate(found.columns)
        },
    }


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def show(found: Overview) -> None:
    """Print the overview: figures of each reward model, and how they correlate."""
    from rich.console import Console

    console = Console()
    console.print(found.summary, highlight=False, soft_wrap=True)
    for error, count in found.errors.most_common(3):
        console.print(f"  {count:,} failed: {harmless(error)}", highlight=False, markup=False)
    console.print(_figures(found))
    for column in found.columns:
        console.print(f"  {column.name}: {column.unit}", highlight=False, markup=False)
    if len(found.columns) > 1:
        console.print("\ncorrelation (Pearson, over images)")
        console.print(_correlation_table(found))


def _figures(found: Overview) -> Any:
    headings = ["images", "missing", "mean", "std", *(name for _, name in QUANTILES)]
    table = _table(headings)
    score = found.formats.score
    for column in found.columns:
        figures = [column.mean, column.std, *(column.quantile(q) for q, _ in QUANTILES)]
        shown = [score(value, column.name) if np.isfinite(value) else "-" for value in figures]
        table.add_row(column.name, f"{len(column.there):,}", f"{column.missing:,}", *shown)
    return table


def _correlation_table(found: Overview) -> Any:
    names = [column.name for column in found.columns]
    table = _table(names[:-1])
    for row, values in enumerate(found.correlations().tolist()):
        if row:
            shown = [_signed(value) for value in values[:row]]
            table.add_row(names[row], *shown)
    return table


def _signed(value: float) -> str:
    return minus(f"{value:+.2f}") if np.isfinite(value) else "-"


def _table(headings: Sequence[str]) -> Any:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("")
    for heading in headings:
        table.add_column(heading, justify="right")
    return table
