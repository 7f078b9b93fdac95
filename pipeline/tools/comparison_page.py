"""The page of `tgo compare`: verdicts, forest plots, every figure and, where they are, pictures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from tgo.pipeline import layout
from tgo.pipeline.cards.model_card import score_title
from tgo.pipeline.evaluation import verdict
from tgo.pipeline.evaluation.evaluate import folder
from tgo.pipeline.evaluation.paired_images import Pairs
from tgo.pipeline.page import charts, gallery, plots
from tgo.pipeline.storage import shards
from tgo.pipeline.storage.atomic import replacing
from tgo.pipeline.templates import colours, template
from tgo.pipeline.tools.compare import Line, Runs, joined
from tgo.pipeline.wording import minus, percent

FULL = layout.REPORTS / "compare-pictures"
"""Pictures larger than the page shows them, which it reads when one is clicked."""


def write(runs: Runs, lines: Sequence[Line], reward: str | None, seed: int) -> Path:
    """Write reports/compare.html.

    Args:
        runs: what was compared, the measure first.
        lines: the figures, as `compare.lines` gives them.
        reward: the main score; None if there is none.
        seed: chooses the pictures of sets that have more than the page has room for.

    Returns:
        The page's path.
    """
    main = reward if any(line.score == reward for line in lines) else None
    beside = joined(runs)
    text = template("comparison.html.j2").render(
        light=colours.LIGHT,
        dark=colours.DARK,
        first=next(iter(runs)),
        outcomes=[(run, verdict.sentence(_rows(lines, run), main)) for run in beside],
        forests=[(run, _forests(lines, run)) for run in beside],
        table=[_cells(line) for line in lines],
        **_pictures(runs, beside, lines, main, seed),
    )
    with replacing(layout.COMPARISON) as file:
        file.write(text.encode())
    return layout.COMPARISON


def _rows(lines: Sequence[Line], run: str) -> dict[str, dict[str, dict[str, float]]]:
    """A run's changes from the first run as `verdict` reads them: by set and score."""
    rows: dict[str, dict[str, dict[str, float]]] = {}
    for line in lines:
        if line.run != run or line.difference is None:
            continue
        row = line.difference._asdict()
        if line.win_rate is not None:
            row |= {"win_rate": line.win_rate.value, "win_low": line.win_rate.low}
            row |= {"win_high": line.win_rate.high}
        rows.setdefault(line.set_name, {})[line.score] = row
    return rows


def _forests(lines: Sequence[Line], run: str) -> list[tuple[str, Markup]]:
    """By set a chart of every score's change, in standard deviations of the first run's scores."""
    drawn: dict[str, list[plots.ForestRow]] = {}
    rows = _rows(lines, run)
    for line in lines:
        if line.run == run and line.difference is not None and line.spread > 0:
            value, low, high = (each / line.spread for each in line.difference)
            way = verdict.way(rows[line.set_name][line.score])
            row = plots.ForestRow(charts.short_title(line.score), value, low, high, way)
            drawn.setdefault(line.set_name, []).append(row)
    every = [row for found in drawn.values() for row in found]
    ends = min([0.0, *(row.low for row in every)]), max([0.0, *(row.high for row in every)])
    unit = "change, standard deviations of the first run"
    return [(name, Markup(plots.forest(found, unit, ends))) for name, found in drawn.items()]


def _cells(line: Line) -> dict[str, str]:
    change, wins = line.difference, line.win_rate
    return {
        "set_name": line.set_name,
        "score": score_title(line.score),
        "run": line.run,
        "mean": minus(f"{line.mean:.4g}"),
        "change": minus(f"{change.value:+.4g}") if change else "",
        "interval": minus(f"{change.low:+.4g} to {change.high:+.4g}") if change else "",
        "wins": f"{percent(wins.value, 0)} ({percent(wins.low, 0)} to {percent(wins.high, 0)})"
        if wins
        else "",
    }


def _pictures(
    runs: Runs,
    beside: Mapping[str, Mapping[str, Pairs]],
    lines: Sequence[Line],
    main: str | None,
    seed: int,
) -> dict[str, Any]:
    """What the gallery needs; nothing where a run's pictures are not on this disk."""
    first = next(iter(runs))
    pairs, folders = {}, {}
    for run, sets in beside.items():
        for name, found in sets.items():
            places = tuple(Path(each) / folder("tests", "tuned", name) for each in (first, run))
            if all(shards.present(place) for place in places):
                label = re.sub(r"[^\w.-]+", "_", run)
                key = name if len(beside) == 1 else f"{name} {label}"
                pairs[key], folders[key] = found, (places[0], places[1])
    if not pairs:
        return {"pairs_count": 0}
    pictures = gallery.Pictures(pairs, folders, FULL, seed)
    named = dict.fromkeys(line.score for line in lines)
    order = [score for score in (main, *named) if score is not None]
    scores = [(score, score_title(score)) for score in dict.fromkeys(order)]
    sides = (first, next(iter(beside)) if len(beside) == 1 else "the other run")
    return {
        "pairs_count": sum(map(len, pairs.values())),
        "sides": sides,
        "gallery_data": gallery.embedded(gallery.data(pictures, scores, main, sides)),
        "gallery_sheets": gallery.embedded(pictures.sheets()),
    }
