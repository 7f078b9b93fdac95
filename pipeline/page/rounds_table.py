"""The rounds of a project side by side, each against the first model of all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tgo.pipeline import layout
from tgo.pipeline.evaluation import verdict
from tgo.pipeline.page.run_files import RunFiles
from tgo.pipeline.page.summary import deviations, won
from tgo.pipeline.storage import label_record, results
from tgo.pipeline.storage.results import FACTS, TRUTH
from tgo.pipeline.wording import points


def folders() -> list[Path]:
    """The rounds that `tgo round` kept, in their order."""
    found = [path for path in layout.ROUNDS.glob("*") if path.is_dir() and path.name.isdecimal()]
    return sorted(found, key=lambda path: int(path.name))


def table(run: RunFiles) -> list[dict[str, Any]]:
    """What the rounds gained, this run last.

    Args:
        run: the run that the page is of.

    Returns:
        By round the images that it was trained on, and its figures by test set; empty where no
        earlier round was compared with the same model as this run.

    Raises:
        InputError: a file of a round is missing or damaged.
    """
    rows = []
    for folder in folders():
        metrics = evaluation(folder)
        if metrics[FACTS].get("base_sha256") != run.facts["base_sha256"]:
            continue
        if metrics[FACTS].get("tuned_sha256") == run.facts["tuned_sha256"]:
            continue  # this run, kept already
        record = label_record.read(folder / layout.THRESHOLD)
        rows.append(_row(folder.name, record["n"], metrics, run))
    if rows:
        rows.append(_row("this run", run.threshold["n"], run.metrics, run))
    return rows


def evaluation(folder: Path) -> dict[str, Any]:
    """The figures of a round that was kept; InputError where they are missing or damaged."""
    return results.evaluation(folder, f"move {folder} away")


def _row(name: str, images: int, metrics: Mapping[str, Any], run: RunFiles) -> dict[str, Any]:
    score = run.settings.shown_reward or TRUTH
    sets = {set_name: metrics.get(set_name, {}) for set_name in run.pairs}
    return {
        "name": name,
        "images": images,
        "sets": {set_name: _figures(rows, score) for set_name, rows in sets.items()},
    }


def _figures(rows: Mapping[str, Any], score: str) -> dict[str, str] | None:
    """None where the round was not evaluated on a set, or by the score."""
    if score not in rows:
        return None
    row = rows[score]
    return {
        "way": verdict.way(row),
        "effect": deviations(row.get("effect")),
        "wins": won(row) if "win_rate" in row else "",
        "truth": points(rows[TRUTH]["difference"]) if TRUTH in rows and score != TRUTH else "",
    }
