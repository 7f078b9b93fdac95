"""From the results of all runs to the one file that docs/claims.md is made from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.claims import plans
from benchmarks.claims.compare import best_of, compare, interval
from benchmarks.claims.measure import Measured
from benchmarks.claims.run import VALIDATION, load

FEEDBACK = "pickscore"
PARADIGMS = ("diffusion", "masked")
BEST = "base, best of four"
UTILITY = "utility pickscore"
VERSUS = {
    "ask-stars-dawid-skene": "ask-stars-mean",
    "ask-stars-standardised": "ask-stars-mean",
    "ask-spend-one": "ask-spend-two",
    "ask-spend-rare": "ask-spend-two",
    "ask-spend-uncertain": "ask-spend-two",
    "ask-spend-two-1024": "ask-as-shipped",
    "ask-spend-uncertain-1024": "ask-spend-two-1024",
    "ask-rounds-replayed": "test-diffusion-tgo-in-rounds",
}
"""Questions whose runs are held against other runs, seed by seed."""


class Results:
    """All results of a folder."""

    def __init__(self, folder: Path) -> None:
        self.facts: dict[str, dict[str, Any]] = {
            path.stem: json.loads(path.read_text(encoding="utf-8"))
            for path in sorted(folder.glob("*.json"))
        }
        self._folder = folder

    def measured(self, name: str) -> dict[str, Measured] | None:
        """What was measured of a run by set of prompts; None if it is not done, or collapsed."""
        if name not in self.facts or self.facts[name].get("collapsed"):
            return None
        return load(self._folder / f"{name}.npz")

    def by_seed(self, name: str) -> dict[str, dict[str, Measured] | None]:
        """What was measured of the runs called `name-SEED`, by seed; None where one collapsed."""
        found = (run.rpartition("-") for run in self.facts)
        return {seed: self.measured(f"{name}-{seed}") for of, _, seed in found if of == name}


def summarise(folder: Path) -> dict[str, Any]:
    """Everything that the page tells, as plain JSON values rounded to what is known."""
    results = Results(folder)
    found = {
        "device": sorted({facts["device"] for facts in results.facts.values()}),
        "runs": len(results.facts),
        "collapsed": sorted(n for n, f in results.facts.items() if f.get("collapsed")),
        "validation": {name: _validation(results, name) for name in PARADIGMS},
        "tests": {name: _table(results, name) for name in PARADIGMS},
        "questions": _questions(results),
    }
    return _rounded(found)


def _validation(results: Results, paradigm: str) -> dict[str, Any]:
    """Gains of every run on the validation prompts, by name; the judge is not used there."""
    base = results.measured(f"validation-{paradigm}-base")
    if base is None:
        return {}
    before = base[VALIDATION]
    rows = {BEST: {"scores": compare(before, [best_of(before, FEEDBACK)], FEEDBACK)}}
    for name, facts in results.facts.items():
        chosen = facts["split"] == VALIDATION and facts["paradigm"] == paradigm
        if not chosen or facts["changes"] is None:
            continue
        after = results.measured(name)
        row: dict[str, Any] = {key: facts[key] for key in ("changes", "prompts", "rounds")}
        if after is None:
            row["collapsed"] = facts["collapsed"]
        else:
            row["scores"] = compare(before, [after[VALIDATION]], FEEDBACK)
        rows[name] = row
    return rows


def _table(results: Results, paradigm: str) -> dict[str, Any]:
    """Every method on the test sets over its seeds, against the base model and against ours."""
    base = results.measured(f"tests-{paradigm}-base")
    if base is None:
        return {}
    names = [*plans.methods(paradigm), plans.ROUNDS]
    runs = {name: plans.test_names(name, paradigm) for name in names}
    after = {
        name: [m for run in of if (m := results.measured(run)) is not None]
        for name, of in runs.items()
    }
    count = (len(names) + 1) * len(base) * len(next(iter(base.values()))) * len(PARADIGMS)
    rows: dict[str, Any] = {BEST: {"sets": {}}}
    for set_name, before in base.items():
        best = compare(before, [best_of(before, FEEDBACK)], FEEDBACK, comparisons=count)
        rows[BEST]["sets"][set_name] = best
    ours = after[plans.ADVISED]
    for name in names:
        done = [results.facts[run] for run in runs[name] if run in results.facts]
        row: dict[str, Any] = {"collapsed": sum(bool(f.get("collapsed")) for f in done)}
        row |= {"seeds": len(after[name]), "chosen": done[0]["changes"] if done else None}
        row["log"] = done[0].get("log", []) if done else []
        tried = [results.facts[n] for n in plans.tuned(name, paradigm) if n in results.facts]
        row["untuned"] = bool(tried) and all(facts.get("collapsed") for facts in tried)
        if after[name]:
            row["sets"] = {
                set_name: compare(
                    before, [m[set_name] for m in after[name]], FEEDBACK, comparisons=count
                )
                for set_name, before in base.items()
            }
        if after[name] and ours and name != plans.ADVISED:
            row["ours_over_it"] = {
                set_name: _over(before, ours, after[name], set_name, count)
                for set_name, before in base.items()
            }
        rows[name] = row
    return rows


def _over(
    base: Measured, ours: Sequence[Any], others: Sequence[Any], set_name: str, count: int
) -> dict[str, Any]:
    """Gains of our models over others, by feedback, raters' liking and the judge's share."""
    seeds = min(len(ours), len(others))
    found = {}
    for score in (FEEDBACK, UTILITY, "share"):
        unit = 1.0 if score == "share" else base[score].std()
        gains = np.stack(
            [
                (ours[s][set_name][score] - others[s][set_name][score]).mean(axis=1) / unit
                for s in range(seeds)
            ]
        )
        found[score] = interval(gains.astype(np.float64), comparisons=count)
    return found


def _questions(results: Results) -> dict[str, Any]:
    base = results.measured("tests-diffusion-base")
    if base is None:
        return {}
    rows: dict[str, Any] = {}
    for name in dict.fromkeys(run.name.rsplit("-", 1)[0] for run in plans.questions()):
        runs = results.by_seed(name)
        after = {seed: found for seed, found in runs.items() if found}
        if not runs:
            continue
        row: dict[str, Any] = {
            "seeds": len(after),
            "collapsed": len(runs) - len(after),
            "sets": {
                set_name: compare(before, [m[set_name] for m in after.values()], FEEDBACK)
                for set_name, before in base.items()
                if after
            },
        }
        other = VERSUS.get(name, "")
        others = results.by_seed(other)
        both = [(found, beside) for s, found in after.items() if (beside := others.get(s))]
        if both:
            ours, theirs = zip(*both, strict=True)
            row["over"] = {
                other.removeprefix("ask-"): {
                    place: _over(before, ours, theirs, place, 1) for place, before in base.items()
                }
            }
        rows[name.removeprefix("ask-")] = row
    return rows


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value
