"""`tgo inspect --html`: histograms and the best, median and worst images of each reward model.

One file without scripts or links to elsewhere; the same bytes from the same shards.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from markupsafe import Markup

from tgo.pipeline.page import atlas, plots, score_plots
from tgo.pipeline.storage import ownership, shards
from tgo.pipeline.storage.atomic import replacing
from tgo.pipeline.templates import colours, template
from tgo.pipeline.tools.inspection import QUANTILES, Column, Overview
from tgo.pipeline.wording import harmless

_TITLE_END = b"scored images</title>"
"""What every page of this command has near its beginning."""


@dataclass(frozen=True)
class Shown:
    """One image in the page: a data URI and its pixels, its prompt and its scores as text."""

    source: str
    width: int
    height: int
    id: str
    prompt: str
    scores: list[tuple[str, str]]
    """Title and score of every reward model, that of the section first."""

    @property
    def enlarged(self) -> bool:
        """Whether the page shows it larger than it is."""
        return max(self.width, self.height) < atlas.THUMBNAIL


def write(found: Overview, path: Path, images: int) -> Path:
    """Write the page with `images` best, median and worst images a reward model; returns it."""
    ownership.require_replaceable_file(path, _is_ours)
    page = render(found, images)
    with replacing(path) as file:
        file.write(page.encode())
    return path


def _is_ours(path: Path) -> bool:
    """Whether a file is a page of this command."""
    with path.open("rb") as file:
        return _TITLE_END in file.read(4096)


def render(found: Overview, images: int) -> str:
    """The page as HTML."""
    picks = {column.name: pick(column, images) for column in found.columns}
    wanted = sorted({row for groups in picks.values() for rows in groups.values() for row in rows})
    rows = dict(zip(wanted, read_rows(found.paths, wanted), strict=True))
    formats = found.formats
    sections = [
        _section(found, column, picks[column.name], rows)
        for column in found.columns
        if len(column.there)
    ]
    return template("inspection.html.j2").render(
        light=colours.LIGHT,
        dark=colours.DARK,
        found=found,
        failed=sum(found.errors.values()),
        errors=found.errors.most_common(10),
        quantiles=[name for _, name in QUANTILES],
        table=[_figures(column, formats) for column in found.columns],
        sections=sections,
        correlation=_correlation(found),
    )


def pick(column: Column, count: int) -> dict[str, list[int]]:
    """Rows of the best images, best first, around the median, and of the worst, worst first.

    `count` of each, or all that there are. Equal scores go by their order in the shards.
    """
    there = np.flatnonzero(np.isfinite(column.scores))
    rising = there[np.argsort(column.scores[there], kind="stable")]
    falling = there[np.argsort(-column.scores[there], kind="stable")]
    start = max((len(rising) - count) // 2, 0)
    return {
        "best": falling[:count].tolist(),
        "median": rising[start : start + count].tolist(),
        "worst": rising[:count].tolist(),
    }


def read_rows(paths: Sequence[Path], numbers: Sequence[int]) -> Iterable[dict[str, Any]]:
    """Id, prompt, image and rating counts of rows by ascending number over all shards.

    Only the row groups that hold them are read.
    """
    waiting, first = list(numbers), 0
    for path in paths:
        groups = pq.read_metadata(path)
        for group in range(groups.num_row_groups):
            end = first + groups.row_group(group).num_rows
            here = [number for number in waiting if number < end]
            if here:
                waiting = waiting[len(here) :]
                table = shards.read_shard(path, ["id", "prompt", "image"], group)
                yield from table.take([number - first for number in here]).to_pylist()
            first = end


def _section(
    found: Overview, column: Column, picks: dict[str, list[int]], rows: dict[int, dict[str, Any]]
) -> dict[str, Any]:
    """A reward model's histogram and galleries."""
    median = column.quantile(0.5)
    return {
        "name": column.name,
        "title": column.title,
        "unit": column.unit,
        "histogram": Markup(score_plots.histogram(column.there, column.unit, median)),
        "galleries": [
            (name, [_shown(found, column, row, rows[row]) for row in picked])
            for name, picked in picks.items()
        ],
    }


def _shown(found: Overview, column: Column, number: int, row: dict[str, Any]) -> Shown:
    picture = atlas.thumbnail(row["image"]["bytes"])
    order = [column, *(other for other in found.columns if other is not column)]
    scores = [
        (other.title, found.formats.score(float(other.scores[number]), other.name))
        for other in order
        if np.isfinite(other.scores[number])
    ]
    return Shown(atlas.data_uri(picture), *picture.size, row["id"], harmless(row["prompt"]), scores)


def _figures(column: Column, formats: Any) -> dict[str, Any]:
    values = [column.mean, column.std, *(column.quantile(share) for share, _ in QUANTILES)]
    return {
        "name": column.name,
        "title": column.title,
        "count": len(column.there),
        "missing": column.missing,
        "values": [formats.score(v, column.name) if np.isfinite(v) else "–" for v in values],
    }


def _correlation(found: Overview) -> Markup | None:
    if len(found.columns) < 2:
        return None
    names = [column.title for column in found.columns]
    return Markup(plots.correlation(found.correlations(), names))
