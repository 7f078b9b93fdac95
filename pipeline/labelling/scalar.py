"""One scalar from one or several reward models, with a rule for scores that are missing.

    score = sum_k w_k z_k / sum_k w_k    over the reward models k that have a score

with z_k the score itself (`none`), in standard deviations from its mean (`z-score`), or its
mid-rank among all scores as a share from 0 to 1 (`rank`). A score that is null, NaN or infinite
is missing; what becomes of the row is `label.missing`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tgo.pipeline.config.label_settings import Label
from tgo.pipeline.errors import InputError
from tgo.pipeline.labelling.stats.moments import Moments

Scores = NDArray[np.float32]
Mask = NDArray[np.bool_]


class Ranks:
    """Mid-ranks among given scores; holds them sorted, 4 bytes a score."""

    def __init__(self, scores: Scores) -> None:
        """Take over finite scores [n], n > 0, in any order; the array is sorted in place."""
        scores.sort()
        self._sorted = scores

    def share(self, scores: Scores) -> NDArray[np.float64]:
        """(scores below + half of the equal ones) / n of each, in 0 to 1; NaN stays NaN."""
        order = np.argsort(scores)  # neighbours in value are neighbours in memory
        asked = scores[order]
        below = np.searchsorted(self._sorted, asked, "left")
        until = np.searchsorted(self._sorted, asked, "right")
        found = np.empty(len(scores))
        found[order] = (below + until) / (2 * len(self._sorted))
        return np.where(np.isnan(scores), np.nan, found)


@dataclass(frozen=True)
class Scalar:
    """How columns of scores become one score; fitted to the training rows once."""

    rule: Label
    unit: str
    moments: Mapping[str, Moments] = field(default_factory=dict)
    """Per reward model, for z-scores."""
    ranks: Mapping[str, Ranks] = field(default_factory=dict)
    """Per reward model, for ranks."""

    def missing(self, columns: Mapping[str, Scores], usable: Mask) -> dict[str, int]:
        """Usable rows that lack a score, per reward model."""
        return {
            name: int(np.count_nonzero(usable & ~np.isfinite(columns[name])))
            for name in self.rule.reward
        }

    def score(self, columns: Mapping[str, Scores], usable: Mask) -> Scores:
        """Scores float32 [n] of rows given by column; NaN where a row has none."""
        names = list(self.rule.reward)
        if len(names) == 1 and self.rule.standardise == "none":
            values = columns[names[0]]
            return np.where(usable & np.isfinite(values), values, np.float32(np.nan))
        total = np.zeros(len(usable))
        weight = np.zeros(len(usable))
        complete = usable.copy()
        for name in names:
            finite = np.isfinite(columns[name])
            share = self.rule.reward[name]
            total += np.where(finite, share * self._standardised(name, columns[name], finite), 0)
            weight += share * finite
            complete &= finite
        kept = usable & (weight > 0) if self.rule.missing == "available" else complete
        return np.where(kept, total / np.where(kept, weight, 1), np.nan).astype(np.float32)

    def _standardised(self, name: str, values: Scores, finite: Mask) -> NDArray[np.float64]:
        filled = np.where(finite, values, np.float32(0))
        if self.rule.standardise == "rank":
            return self.ranks[name].share(filled)
        if self.rule.standardise == "none":
            return filled.astype(np.float64)
        spread = self.moments[name].std()
        centred = filled.astype(np.float64) - self.moments[name].mean()
        return centred / spread if spread > 0 else np.zeros(len(values))  # a constant ranks nothing


def unit_of(rule: Label, models: Mapping[str, Mapping[str, Any]]) -> str:
    """The unit of the scalar, from the reward models' own; InputError if they cannot be added."""
    units = {name: models[name]["unit"] for name in rule.reward}
    if rule.standardise == "z-score":
        return "standard deviations" if len(units) > 1 else f"standard deviations of {rule.name}"
    if rule.standardise == "rank":
        return "rank, 0 to 1"
    if len(set(units.values())) > 1:
        listed = ", ".join(f"{name} in {unit!r}" for name, unit in units.items())
        raise InputError(
            f"label.standardise = 'none' adds scores of different units ({listed}); set it to "
            "z-score or rank"
        )
    return next(iter(units.values()))
