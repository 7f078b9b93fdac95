"""docs/claims.md from the summary of all results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.claims import plans
from benchmarks.claims.summary import UTILITY

REWARDS = {
    "pickscore": "PickScore",
    "hpsv2": "HPSv2",
    "imagereward": "ImageReward",
    "clip": "CLIP",
    "aesthetic": "Aesthetic",
}
FEEDBACK, SHARE = "pickscore", "share"
HEAD = """# The claims, measured

Made from `docs/claims.json` by `python -m benchmarks.claims page`; the numbers are those of
`python -m benchmarks.claims claims --device cuda --workers N`, on {device}: {runs} runs, of which
{collapsed} collapsed. The same command runs on a CPU (`--device cpu --workers 2`, some days), goes
on where it was killed, and gives the same numbers but for rounding and its consequences.

Feedback is PickScore's miniature, everywhere but where another is named. Every training has 200
steps of 64 images, two corruptions each, from the same 2,048 images of 512 prompts unless it says
otherwise. Each method's settings are the best of four on the validation prompts, by the feedback
alone: two step sizes times two values of its own parameter, or four step sizes where it has none.
Then the test sets were read once: 256 prompts each, two images a prompt with the same seeds for
every model, over as many training seeds as the tables of settings say.

Rewards are in standard deviations of the base model's scores. *Right* is the judge's share of right
attributes, in points; *utility* that of the raters PickScore was trained on, read from the pixels
([world.md](world.md)), in standard deviations. *Worse* and *better* are shares of pairs by right
attributes; *hacked* is the share of worse pairs in which the feedback prefers the tuned picture.
Intervals: 95 %, over prompts and seeds; **bold** where the interval corrected for all
comparisons of both tables (Bonferroni) excludes zero.
"""


def page(found: Mapping[str, Any]) -> str:
    """The page as Markdown."""
    device = " and ".join(found["device"])
    parts = [HEAD.format(device=device, runs=found["runs"], collapsed=len(found["collapsed"]))]
    for paradigm, rows in found["tests"].items():
        if rows:
            parts += [f"\n## {paradigm.capitalize()}\n", *_tables(rows), *_settings(rows)]
    parts += ["\n## The paper's claims\n", *_claims(found)]
    parts += ["\n## What the paper leaves open\n", *_questions(found["questions"])]
    for paradigm, rows in found["validation"].items():
        parts += [f"\n## On the validation prompts, {paradigm}\n", *_validation(rows)]
    return "\n".join(parts) + "\n"


def _tables(rows: Mapping[str, Any]) -> Iterator[str]:
    names = ("method", *REWARDS.values(), "wins", "right", "all right", "utility")
    for set_name in _sets(rows):
        yield f"\n### {set_name}\n"
        yield _row(*names, "better", "worse", "hacked")
        yield _row(*["---"] * (len(names) + 3))
        for name, row in rows.items():
            if not row.get("sets"):
                told = "collapsed" if row["collapsed"] or row.get("untuned") else "not run"
                yield _row(name, *[told] * len(REWARDS), *[""] * 7)
                continue
            yield _row(name, *_cells(row["sets"][set_name]))


def _cells(scores: Mapping[str, Any]) -> list[str]:
    truth = scores["truth"]
    return [
        *(_gain(scores[name]) for name in REWARDS),
        f"{scores[FEEDBACK]['wins']:.0%}",
        _gain(scores[SHARE], 100, 1),
        _gain(scores["all_right"], 100, 1),
        _gain(scores["utility pickscore"]),
        f"{truth['better']:.0%}",
        f"{truth['worse']:.0%}",
        "" if truth["worse_preferred"] is None else f"{truth['worse_preferred']:.0%}",
    ]


def _gain(score: Mapping[str, float], scale: float = 1, digits: int = 2) -> str:
    half = scale * (score["high"] - score["gain"])
    told = f"{scale * score['gain']:+.{digits}f} ± {half:.{digits}f}"
    sure = score["corrected_low"] > 0 or score["corrected_high"] < 0
    return f"**{told}**" if sure else told


def _settings(rows: Mapping[str, Any]) -> Iterator[str]:
    yield "\nThe settings that validation chose:\n"
    yield _row("method", "learning rate", "its own", "seeds", "collapsed")
    yield _row(*["---"] * 5)
    for name, row in rows.items():
        chosen = row.get("chosen")
        if chosen:
            rate = f"{chosen['train.learning_rate']:g}"
            yield _row(name, rate, _own(name, chosen), str(row["seeds"]), str(row["collapsed"]))


def _own(name: str, chosen: Mapping[str, Any]) -> str:
    objective = chosen.get("train.objective", "tgo")
    settings = dict(chosen.get("train.objectives", {}).get(objective, {}))
    told = [f"{key} {value}" for key, value in settings.items() if value is not None]
    if objective in ("tgo", "dpo", "kto", "bco", "lair"):
        told.insert(0, f"beta {chosen.get('train.beta', 'as shipped')}")
    return ", ".join(told)


def _claims(found: Mapping[str, Any]) -> Iterator[str]:
    for paradigm, rows in found["tests"].items():
        if not rows:
            continue
        for name in (plans.ADVISED, plans.PUBLISHED, plans.ROUNDS):
            if rows.get(name, {}).get("sets"):
                yield f"- {paradigm}, {name}: {_counted(rows[name]['sets'])}."
        over = {name: row["ours_over_it"] for name, row in rows.items() if "ours_over_it" in row}
        yield f"- {paradigm}, {plans.ADVISED} against each other method (feedback in deviations, "
        yield "  right attributes in points; ours less theirs, mean over the three sets):\n"
        yield _row("method", "feedback", "sets clearly above", "below", "right", "above", "below")
        yield _row(*["---"] * 7)
        for name, sets in over.items():
            yield _row(name, *_against(sets, FEEDBACK, 1, 2), *_against(sets, SHARE, 100, 1))
        yield ""


def _counted(sets: Mapping[str, Any]) -> str:
    cells = [scores[name] for scores in sets.values() for name in REWARDS]
    up = sum(cell["low"] > 0 for cell in cells)
    down = sum(cell["high"] < 0 for cell in cells)
    sure = sum(cell["corrected_low"] > 0 for cell in cells)
    right = ", ".join(f"{name} {_gain(scores[SHARE], 100, 1)}" for name, scores in sets.items())
    return (
        f"above base in {up} of {len(cells)} cells ({sure} corrected), below in {down}; "
        f"right attributes in points: {right}"
    )


def _against(
    sets: Mapping[str, Any], score: str, scale: float, digits: int
) -> tuple[str, str, str]:
    cells = [scores[score] for scores in sets.values()]
    mean = scale * sum(cell["gain"] for cell in cells) / len(cells)
    above, below = (
        sum(cell["low"] > 0 for cell in cells),
        sum(cell["high"] < 0 for cell in cells),
    )
    return f"{mean:+.{digits}f}", str(above), str(below)


def _questions(rows: Mapping[str, Any]) -> Iterator[str]:
    if not any(row["sets"] for row in rows.values()):
        yield "Not run yet: `python -m benchmarks.claims claims` goes on with them."
        return
    yield "Diffusion, the advised settings with one thing changed, on the test sets.\n"
    sets = _sets(rows)
    heads = [f"{name}, {what}" for name in sets for what in ("PickScore", "right")]
    yield _row("changed", "seeds", *heads, "worse", "hacked")
    yield _row(*["---"] * (len(heads) + 4))
    for name, row in rows.items():
        if not row["sets"]:
            yield _row(name, "collapsed", *[""] * (len(heads) + 2))
            continue
        cells = []
        for set_name in sets:
            scores = row["sets"][set_name]
            cells += [_gain(scores[FEEDBACK]), _gain(scores[SHARE], 100, 1)]
        truths = [scores["truth"] for scores in row["sets"].values()]
        worse = sum(truth["worse"] for truth in truths) / len(truths)
        hacked = sum(truth["worse_preferred"] or 0 for truth in truths) / len(truths)
        yield _row(name, str(row["seeds"]), *cells, f"{worse:.0%}", f"{hacked:.0%}")
    yield from _versus(rows)


def _versus(rows: Mapping[str, Any]) -> Iterator[str]:
    """Runs of one question held against others, by the feedback and what its raters like."""
    for name, row in rows.items():
        for other, sets in row.get("over", {}).items():
            for score, what in ((FEEDBACK, "the feedback"), (UTILITY, "the raters' liking")):
                told = [f"{place} {_gain(scores[score])}" for place, scores in sets.items()]
                yield f"\n{name} over {other}, {what} in deviations: {', '.join(told)}."


def _validation(rows: Mapping[str, Any]) -> Iterator[str]:
    yield "All runs, by the feedback's gain; one seed. No truth is asked here. `tune` and `rounds`"
    yield "are what the tables chose from, `lever` varies one thing at their budget, the others at"
    yield "300 steps, one corruption and learning rate 3e-4 (benchmarks/claims/exploration.py).\n"
    yield _row("run", *REWARDS.values(), "wins", "worst of the five")
    yield _row(*["---"] * (len(REWARDS) + 3))
    scored = {name: row for name, row in rows.items() if "scores" in row}
    for name in sorted(scored, key=lambda n: -scored[n]["scores"][FEEDBACK]["gain"]):
        scores = scored[name]["scores"]
        gains = [scores[reward]["gain"] for reward in REWARDS]
        told = [f"{gain:+.2f}" for gain in gains]
        yield _row(name, *told, f"{scores[FEEDBACK]['wins']:.0%}", f"{min(gains):+.2f}")
    for name in sorted(rows.keys() - scored.keys()):
        yield _row(name, *["collapsed"] * len(REWARDS), "", "")


def _sets(rows: Mapping[str, Any]) -> list[str]:
    return list(next(row["sets"] for row in rows.values() if row.get("sets")))


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"
