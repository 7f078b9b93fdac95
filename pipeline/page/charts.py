"""Which charts the report has: the run's files turned into titled figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from tgo.pipeline.cards.threshold_facts import scalar_title
from tgo.pipeline.evaluation import verdict
from tgo.pipeline.evaluation.evaluate import rows_of
from tgo.pipeline.page import plots, results_table
from tgo.pipeline.page.run_files import RunFiles
from tgo.pipeline.storage.results import GOLD, TRUTH, UTILITY
from tgo.pipeline.training_log.health import BANDS
from tgo.pipeline.wording import TITLES

HELD_OUT = tuple(f"held_out_{key}" for key in ("loss", "margin", "accuracy"))
PLOTTED = ("step", "loss", "margin", "accuracy", "kl", "grad_norm", *HELD_OUT)
"""Columns of the log that `dvc plots` draws."""


class Figure(NamedTuple):
    """A chart in the page: its caption, a quieter note beside it, and the drawing."""

    title: str
    note: str
    svg: Markup


def threshold(run: RunFiles) -> Figure:
    """The feedback scores by label, with the threshold."""
    scores, labels = run.labelled
    facts = run.threshold
    drawn = plots.distribution(
        scores, labels, facts["threshold"], (facts["low"], facts["high"]), facts["unit"]
    )
    title = f"{scalar_title(facts)} of the training images"
    whose = "the threshold" if facts["scope"] == "global" else "the global threshold"
    return Figure(title, f"band: 95 % interval of {whose}", Markup(drawn))


def forest(run: RunFiles) -> dict[str, Figure]:
    """The change of every score in standard deviations, one figure a test set."""
    lines = {
        name: [
            _forest_row(short_title(score), rows[score])
            for score in results_table.order(run)
            if "effect" in rows[score]
        ]
        for name, rows in rows_of(run.metrics).items()
    }
    notes = {name: (name, f"{len(pairs)} pairs") for name, pairs in run.pairs.items()}
    return _forests(lines, notes)


def domains(run: RunFiles, score: str) -> dict[str, Figure]:
    """The change of a score by domain, one figure a test set that has several."""
    lines = {
        name: [
            _forest_row(f"{domain} · {rows[score]['pairs']:.0f}", rows[score])
            for domain, rows in found.items()
            if "effect" in rows.get(score, {})
        ]
        for name, found in results_table.domains(run).items()
    }
    notes = {name: (f"{short_title(score)} on {name}", "by domain, pairs") for name in lines}
    return _forests(lines, notes)


def _forests(
    lines: Mapping[str, list[plots.ForestRow]], notes: Mapping[str, tuple[str, str]]
) -> dict[str, Figure]:
    """Forest plots on one common axis, so that the sets can be compared by eye."""
    every = [row for rows in lines.values() for row in rows]
    if not every:
        return {}
    ends = min(0.0, *(row.low for row in every)), max(0.0, *(row.high for row in every))
    unit = "change, standard deviations of the base"
    return {
        name: Figure(*notes[name], Markup(plots.forest(rows, unit, ends)))
        for name, rows in lines.items()
        if rows
    }


def differences(run: RunFiles, reward: str) -> dict[str, Figure]:
    """What tuning changed in each pair, one figure a test set."""
    unit = run.models[reward]["unit"]
    return {
        name: Figure(
            f"{TITLES[reward]} on {name}",
            "tuned less base",
            Markup(plots.differences(pairs.gain(reward), unit)),
        )
        for name, pairs in run.pairs.items()
    }


def _forest_row(title: str, row: Mapping[str, float]) -> plots.ForestRow:
    return plots.ForestRow(
        title, row["effect"], row["effect_low"], row["effect_high"], verdict.way(row)
    )


def short_title(score: str) -> str:
    """A score's name at the edge of a small chart."""
    if score.startswith(UTILITY):
        return "Truth, utility"
    return {TRUTH: "Truth, share", GOLD: "Truth, all"}.get(score, TITLES[score])


def correlation(run: RunFiles) -> Figure | None:
    """How far the reward models agree on the base model's test images; None for a single one."""
    names = list(run.settings.rewards)
    if len(names) < 2:
        return None
    values = np.stack(
        [np.concatenate([pairs.base[name] for pairs in run.pairs.values()]) for name in names]
    )
    with np.errstate(invalid="ignore", divide="ignore"):  # a constant score correlates with none
        matrix = np.corrcoef(values)
    drawn = plots.correlation(matrix, [TITLES[name] for name in names])
    return Figure("Agreement of the reward models", "", Markup(drawn))


def training(log: list[dict[str, Any]]) -> dict[str, Figure]:
    """The training curves that the objective has: without a reference only loss and gradient."""
    wanted: list[tuple[str, str, str, Mapping[str, str], float | None]] = [
        ("loss", "Loss", "", {"loss": "loss", "held_out_loss": "held out"}, None),
        (
            "margin",
            "Margin",
            "implicit reward, label 1 less label 0",
            {"margin": "margin", "held_out_margin": "held out"},
            0.0,
        ),
        (
            "accuracy",
            "Accuracy",
            "share, 0.5 is chance",
            {"accuracy": "share", "held_out_accuracy": "held out"},
            0.5,
        ),
        (
            "log_ratio",
            "Log-ratio to the reference",
            "",
            {"log_ratio_positive": "label 1", "log_ratio_negative": "label 0"},
            0.0,
        ),
        ("grad_factor", "Gradient factor", "0.5 at the start", {"grad_factor": "mean"}, None),
        ("saturation", "Saturation", "share without gradient", {"saturation": "share"}, None),
        (
            "likelihood_change",
            "Likelihood of positives",
            "relative to the reference",
            {"likelihood_change": "change"},
            0.0,
        ),
        ("kl", "KL to the reference", "estimate", {"kl": "KL"}, None),
        ("grad_norm", "Gradient norm", "before clipping", {"grad_norm": "norm"}, None),
    ]
    figures = {}
    for key, title, note, columns, level in wanted:
        found = {label: _column(log, column) for column, label in columns.items()}
        lines = {label: values for label, values in found.items() if values is not None}
        if "held out" in lines:
            lines = dict(zip(("trained on", "held out"), lines.values(), strict=True))
        if lines:
            steps = [line["step"] for line in log]
            healthy = BANDS.get(key)
            band = None if healthy is None or key == "grad_norm" else (healthy.low, healthy.high)
            drawn = plots.curves(steps, lines, name=title, level=level, band=band)
            figures[key] = Figure(title, note, Markup(drawn))
    return figures


def _column(log: list[dict[str, Any]], name: str) -> list[float] | None:
    """One value a line, NaN where a line has none; None if no line has one."""
    values = [line.get(name) for line in log]
    if all(value is None for value in values):
        return None
    return [float("nan") if value is None else float(value) for value in values]


def as_csv(log: list[dict[str, Any]]) -> str:
    """The log's curves as a table for `dvc plots`; a number that a line lacks is left empty."""
    lines = [",".join(PLOTTED)]
    lines += [",".join(str(line.get(key, "")) for key in PLOTTED) for line in log]
    return "\n".join(lines) + "\n"
