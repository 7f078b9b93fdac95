"""Runs beside the base model: gains with intervals over prompts and seeds, and over-optimisation.

The unit is the prompt: images of one prompt share its difficulty and are averaged first. Several
seeds of training are a second source of chance, so prompts and seeds are drawn together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from benchmarks.claims.measure import Measured

RESAMPLES = 2000
TRUTHS = ("share", "all_right")
Floats = NDArray[np.float64]


@cache
def _drawn(seeds: int, prompts: int) -> tuple[Floats, Floats]:
    """Bootstrap weights of each seed [R, seeds] and prompt [R, prompts]; each row sums to 1."""
    rng = np.random.default_rng(0)
    some = rng.multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES) / seeds
    others = rng.multinomial(prompts, np.full(prompts, 1 / prompts), RESAMPLES) / prompts
    return some, others


def interval(gains: Floats, *, comparisons: int = 1) -> dict[str, float]:
    """Mean of gains [seeds, prompts] with its 95 % interval, and one corrected by Bonferroni.

    The standard error is that of a bootstrap over both axes at once; intervals are normal, since
    the corrected quantiles lie too far out to be estimated from the resamples.
    """
    some, others = _drawn(*gains.shape)
    means = ((some @ gains) * others).sum(axis=1)
    mean, error = float(gains.mean()), float(means.std())
    usual, strict = (norm.isf(0.025 / count) * error for count in (1, comparisons))
    found = {"gain": mean, "low": mean - usual, "high": mean + usual}
    return found | {"corrected_low": mean - strict, "corrected_high": mean + strict}


def paired(base: Measured, tuned: Measured) -> Measured:
    """The base model's images that have the seeds of the tuned model's."""
    return {name: base[name][:, : values.shape[1]] for name, values in tuned.items()}


def compare(
    base: Measured, tuned: Sequence[Measured], feedback: str, *, comparisons: int = 1
) -> dict[str, Any]:
    """One set of prompts: every score of several seeds' models against the base model.

    Rewards are in standard deviations of the base model's scores, judge values unscaled. `wins` is
    the share of same-seed pairs that score higher, a tie being half a win. Where there is a truth,
    `better` and `worse` are shares of pairs, and `worse_preferred` that of the worse pairs in which
    the feedback prefers the tuned picture: over-optimisation.
    """
    before = paired(base, tuned[0])
    found: dict[str, Any] = {}
    for name, values in before.items():
        unit = 1.0 if name in TRUTHS else float(np.nanstd(base[name]))
        gains = np.stack([(after[name] - values).astype(np.float64) / unit for after in tuned])
        found[name] = interval(np.nanmean(gains, axis=2), comparisons=comparisons)
        found[name]["wins"] = float(((np.sign(gains) + 1) / 2).mean())
        found[name]["base"], found[name]["unit"] = float(np.nanmean(values)), unit
    if "share" in before:
        change = np.stack([after["share"] - before["share"] for after in tuned])
        prefers = np.stack([after[feedback] > before[feedback] for after in tuned])
        worse = change < -1e-6
        found["truth"] = {
            "better": float((change > 1e-6).mean()),
            "worse": float(worse.mean()),
            "worse_preferred": float(prefers[worse].mean()) if worse.any() else None,
        }
    return found


def best_of(base: Measured, feedback: str, count: int = 4) -> Measured:
    """The base model's best image by feedback from each group of `count` images of a prompt."""
    chosen = []
    scores = base[feedback]
    for start in range(0, scores.shape[1] - count + 1, count):
        chosen.append(start + scores[:, start : start + count].argmax(axis=1))
    places = np.stack(chosen, axis=1)
    return {name: np.take_along_axis(v, places, axis=1) for name, v in base.items()}


def ranked(results: Mapping[str, Mapping[str, Any]], feedback: str) -> list[str]:
    """Names of validation results, best first: by the feedback's gain in deviations."""
    return sorted(results, key=lambda name: -results[name][feedback]["gain"])
