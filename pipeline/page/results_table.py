"""The results in rows: every score of every test set, and the same by domain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tgo.pipeline.cards.model_card import score_title
from tgo.pipeline.evaluation import verdict
from tgo.pipeline.evaluation.evaluate import rows_of
from tgo.pipeline.page.run_files import RunFiles
from tgo.pipeline.page.summary import deviations
from tgo.pipeline.storage import results
from tgo.pipeline.storage.results import FACTS, GOLD, TRUTH, UTILITY
from tgo.pipeline.wording import Formats, percent, points

_SHARES = (GOLD, TRUTH)


def order(run: RunFiles) -> list[str]:
    """Scores as they are shown: the main one first, the other reward models, then the judge's."""
    main = run.settings.shown_reward
    rewards = [name for name in run.settings.rewards if name != main]
    first = [] if main is None else [main]
    known = set.intersection(*(set(pairs.scores) for pairs in run.pairs.values()))
    judged = [TRUTH, *sorted(score for score in known if score.startswith(UTILITY)), GOLD]
    own = results.shown(judged, run.settings.label.reward)
    return [*first, *rewards, *(own if run.judged else ())]


def table(run: RunFiles, formats: Formats) -> list[dict[str, Any]]:
    """By test set: its name, how many prompts and pairs, and a row for every score."""
    groups = []
    for name, rows in rows_of(run.metrics).items():
        counts = run.metrics[FACTS]["sets"][name]
        excluded = f", {counts['excluded']} pairs excluded" if counts["excluded"] else ""
        groups.append(
            {
                "name": name,
                "note": f"{counts['prompts']} prompts, {counts['images']} pairs{excluded}",
                "rows": [_row(score, rows[score], run, formats) for score in order(run)],
            }
        )
    return groups


def domains(run: RunFiles) -> dict[str, dict[str, dict[str, Mapping[str, float]]]]:
    """By test set and domain the figures of the main score and of the truth, as far as known."""
    found: dict[str, dict[str, dict[str, Mapping[str, float]]]] = run.metrics[FACTS]["domains"]
    return found


def _row(score: str, row: Mapping[str, float], run: RunFiles, formats: Formats) -> dict[str, Any]:
    if score in _SHARES:
        values = {key: percent(row[key]) for key in ("base", "tuned")}
        changes = {key: points(row[key]) for key in ("difference", "low", "high")}
    else:
        values = {key: formats.score(row[key], score) for key in ("base", "tuned")}
        changes = {key: formats.change(row[key], score) for key in ("difference", "low", "high")}
    wins = None
    if "win_rate" in row:
        ends = f"{100 * row['win_low']:.0f} to {percent(row['win_high'], 0)}"
        wins = {"rate": percent(row["win_rate"]), "interval": ends}
    return {
        "title": score_title(score),
        "main": score in run.settings.label.reward,
        "way": verdict.way(row),
        "effect": deviations(row.get("effect")),
        "wins": wins,
        "prefers_worse": percent(row["prefers_worse"], 0) if "prefers_worse" in row else "",
        **values,
        **changes,
    }
