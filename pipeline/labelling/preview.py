"""`tgo label --preview`: what labels would be under several settings, side by side, unwritten.

Reads the columns that the settings need once, and nothing else: no prompt is looked at unless
the scope is prompt. What takes a bootstrap is left to the stage itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tgo.pipeline.config import settings
from tgo.pipeline.config.label_settings import Label
from tgo.pipeline.config.settings import Settings
from tgo.pipeline.errors import InputError
from tgo.pipeline.labelling import labeller
from tgo.pipeline.labelling.stats.quantiles import rank

SAME_KEYS = {
    "estimator": ("percentile", "value", "oracle_beta", "ordinal"),
    "weights": ("confidence", "cap", "error"),
}
"""Settings that belong to one value of another; a variation of that one clears them."""
USUAL: tuple[Mapping[str, Any], ...] = (
    {"percentile": 25.0},
    {"percentile": 75.0},
    {"estimator": "mean"},
    {"estimator": "otsu"},
    {"estimator": "mixture"},
)
"""What is shown beside params.yaml when nothing else is asked for; of a plain percentile rule."""


@dataclass(frozen=True)
class Preview:
    """One setting's labels in figures."""

    name: str
    threshold: float
    """The global one."""
    n: int
    positives: int
    changed: int
    """Rows whose label differs from that of params.yaml."""
    weights: tuple[float, float, float]
    """5th percentile, median and 95th percentile of the weights."""


def run(chosen: Settings, scored: Path, variations: Sequence[str]) -> list[Preview]:
    """Print and return what the labels would be: params.yaml, then each variation of it.

    A variation is `key=value` settings of the group label, with commas between.
    """
    rules = {"params.yaml": chosen.label}
    asked = [_parsed(text) for text in variations] or _usual(chosen.label)
    for changes in asked:
        name = ", ".join(f"{key}={_spelled(value)}" for key, value in changes.items())
        rules[name] = varied(chosen, changes, name)
    found = look(scored, rules, threads=chosen.threads)
    print("\n".join(_table(found)))
    return found


def look(scored: Path, rules: Mapping[str, Label], *, threads: int = 1) -> list[Preview]:
    """Label every row by every rule, in memory; differences are counted against the first rule."""
    first: NDArray[np.int8] | None = None
    rows: list[Preview] = []
    cache: dict[str, labeller.ScoresRead] = {}
    for name, rule in rules.items():
        fitted = labeller.fit(scored, rule, threads=threads, cache=cache)
        label, weight = _labels(fitted)
        first = label if first is None else first
        usable = label >= 0
        weights = np.sort(weight[usable])
        low, middle, high = (weights[rank(len(weights), share) - 1] for share in (5, 50, 95))
        rows.append(
            Preview(
                name,
                float(fitted.thresholds.overall[0]),
                int(usable.sum()),
                int((label == 1).sum()),
                int((label != first).sum()),
                (float(low), float(middle), float(high)),
            )
        )
    return rows


def varied(chosen: Settings, changes: Mapping[str, Any], name: str) -> Label:
    """The label settings with some changed, checked like params.yaml itself."""
    values = chosen.model_dump(mode="json")
    for key in changes:
        for dependent in SAME_KEYS.get(key, ()):
            values["label"][dependent] = None
    values["label"].update(changes)
    return settings.validate(values, origin=f"--try {name}").label


def _labels(fitted: labeller.Labeller) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    batches = list(fitted.all_rows())
    return (
        np.concatenate([rows.label for rows in batches]),
        np.concatenate([rows.weight for rows in batches]),
    )


def _usual(rule: Label) -> list[dict[str, Any]]:
    if rule.estimator != "percentile" or rule.scope == "prompt" or rule.ordinal:
        return [{"estimator": "percentile", "percentile": 50.0, "scope": "global"}]
    found = [dict(changes) for changes in USUAL]
    return [changes for changes in found if changes.get("percentile") != rule.percentile]


def _parsed(text: str) -> dict[str, Any]:
    """`key=value,key=value` with YAML values."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    yaml, found = YAML(typ="safe", pure=True), {}
    for piece in _pieces(text):
        key, equals, value = piece.partition("=")
        try:
            found[key.strip().removeprefix("label.")] = yaml.load(value)
        except YAMLError:
            equals = ""
        if not equals or not key.strip():
            raise InputError(f"--try {text}: write settings as key=value, such as percentile=60")
    return found


def _pieces(text: str) -> list[str]:
    """Split at commas outside brackets."""
    depth, pieces = 0, [""]
    for letter in text:
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and not depth:
            pieces.append("")
        else:
            pieces[-1] += letter
    return pieces


def _spelled(value: Any) -> str:
    return "null" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _table(rows: Sequence[Preview]) -> list[str]:
    heads = ("settings", "threshold", "positive", "changed", "weights 5 %, 50 %, 95 %")
    lines = [heads]
    for row in rows:
        low, middle, high = row.weights
        lines.append(
            (
                row.name,
                f"{row.threshold:.6g}",
                f"{row.positives / row.n:.1%} of {row.n:,}",
                f"{row.changed / row.n:.1%}",
                f"{low:.2f}  {middle:.2f}  {high:.2f}",
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
