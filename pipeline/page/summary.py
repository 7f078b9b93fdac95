"""The top of the report: what it is of, the outcome in words, and one tile a test set.

No sentence claims more than its interval; which way a score went is decided in
``evaluation.verdict``, where a fall of the mean or of the win rate is a fall.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from tgo.pipeline.cards.model_card import badge, score_title
from tgo.pipeline.config.settings import Settings
from tgo.pipeline.evaluation import verdict
from tgo.pipeline.evaluation.evaluate import rows_of
from tgo.pipeline.page.run_files import RunFiles
from tgo.pipeline.storage.results import FACTS, TRUTH
from tgo.pipeline.wording import TITLES, Formats, minus, percent, points


class Headline(NamedTuple):
    """What the page says first."""

    kicker: str
    badge: str | None
    title: str
    lead: Markup


def headline(run: RunFiles, formats: Formats) -> Headline:
    """The report in a few sentences, true whichever way the result went."""
    settings, metrics = run.settings, run.metrics
    reward, sets = settings.shown_reward, rows_of(metrics)
    parts = []
    if reward is not None:
        parts.append(_change_sentence(reward, sets, formats))
    if all(TRUTH in rows for rows in sets.values()):
        parts.append(_truth_sentence(sets))
        if reward is not None:
            parts += _deceived_sentence(reward, sets)
    elif reward is not None:
        parts.append(
            Markup("No judge knows the truth here: the reward models that gave no feedback stand ")
            + Markup("in for it, and share their training data and their taste with it.")
        )
    kicker = f"{settings.train.objective.upper()} · {settings.generator.model} · same prompts and "
    title = verdict.sentence(metrics, reward)
    return Headline(
        kicker + "seeds for both models",
        badge(settings),
        title[0].upper() + title[1:],
        Markup(" ").join(parts),
    )


def tiles(run: RunFiles, formats: Formats) -> list[dict[str, Any]]:
    """One figure a test set: the change of the main score with its interval, and the truth."""
    score = run.settings.shown_reward or (TRUTH if run.judged else None)
    if score is None:
        return []
    found = []
    for name, rows in rows_of(run.metrics).items():
        row = rows[score]
        as_text = points if score == TRUTH else _changes(score, formats)
        found.append(
            {
                "set_name": name,
                "score": score_title(score),
                "way": verdict.way(row),
                "change": as_text(row["difference"]),
                "interval": f"{as_text(row['low'])} to {as_text(row['high'])}",
                "effect": deviations(row.get("effect")),
                "wins": won(row),
                "truth": _truth_in_a_tile(rows) if score != TRUTH else None,
                "people": run.facts.get("people", {}).get(name),
            }
        )
    return found


def deviations(effect: float | None) -> str:
    """A change in standard deviations of the base model's scores."""
    return "" if effect is None else minus(f"{effect:+.2f}\u00a0sd")


def won(row: Mapping[str, float]) -> str:
    """The win rate with its interval."""
    return (
        f"{percent(row['win_rate'], 0)} of pairs won "
        f"({100 * row['win_low']:.0f} to {percent(row['win_high'], 0)})"
    )


def training_note(settings: Settings) -> str:
    """What was trained and how, in a line."""
    train = settings.train
    return (
        f"{train.objective.upper()}, {train.steps:,} steps of {train.batch_size}: "
        f"{train.steps * train.batch_size:,} images seen. Each point is a mean over "
        f"{train.log_every} steps."
    )


def results_note(metrics: Mapping[str, Any]) -> str:
    """How the figures were made."""
    facts = metrics[FACTS]
    count = facts["images_per_prompt"]
    images = "one image" if count == 1 else f"{count} images"
    return (
        f"Both models drew the same prompts from the same noise, {images} a prompt: "
        f"{facts['sampler']}, {facts['steps']} steps, guidance "
        f"{facts['guidance_scale']:g}, {facts['dtype']}. Means over prompts; 95\u00a0% intervals "
        "bootstrapped over prompts; sd: standard deviations of the base model's scores. Pairs won: "
        "how often the tuned image scores higher than the base image of its seed; a tie is half."
    )


def _change_sentence(
    reward: str, sets: Mapping[str, Mapping[str, Any]], formats: Formats
) -> Markup:
    changes = [
        Markup("<strong>{}</strong>{} on {}").format(
            formats.change(rows[reward]["difference"], reward),
            f" ({deviations(rows[reward].get('effect'))})" if "effect" in rows[reward] else "",
            name,
        )
        for name, rows in sets.items()
    ]
    return Markup("Mean change of {}: {}.").format(TITLES[reward], _listed(changes))


def _truth_sentence(sets: Mapping[str, Mapping[str, Any]]) -> Markup:
    rows = [found[TRUTH] for found in sets.values()]
    changes = [
        Markup("{} to {} on {}").format(percent(row["base"], 0), percent(row["tuned"], 0), name)
        for name, row in zip(sets, rows, strict=True)
    ]
    better, worse, equal = (sum(row[key] for row in rows) for key in ("better", "worse", "equal"))
    return Markup(
        "By the rule-based checker, attributes that are correct went from {}: <strong>{:,}</strong>"
        " pictures got truly better, <strong>{:,}</strong> worse, {:,} stayed equal."
    ).format(_listed(changes), better, worse, equal)


def _deceived_sentence(reward: str, sets: Mapping[str, Mapping[str, Any]]) -> list[Markup]:
    told = {
        name: (rows[reward]["prefers_worse"], rows[TRUTH]["better"] + rows[TRUTH]["worse"])
        for name, rows in sets.items()
        if "prefers_worse" in rows[reward]
    }
    if not told:
        return []
    shares = [
        Markup("<strong>{}</strong> of {:,} on {}").format(percent(share, 0), count, name)
        for name, (share, count) in told.items()
    ]
    return [
        Markup("Where a pair differs in truth, {} prefers the worse picture in {}.").format(
            TITLES[reward], _listed(shares)
        )
    ]


def _truth_in_a_tile(rows: Mapping[str, Any]) -> dict[str, str] | None:
    if TRUTH not in rows:
        return None
    row = rows[TRUTH]
    return {
        "way": verdict.way(row),
        "text": f"{points(row['difference'])} ({points(row['low'])} to {points(row['high'])})",
        "counts": f"{row['better']:,} better, {row['worse']:,} worse",
    }


def _changes(score: str, formats: Formats) -> Any:
    return lambda value: formats.change(value, score)


def _listed(parts: Sequence[str]) -> Markup:
    if len(parts) == 1:
        return Markup("{}").format(parts[0])
    return Markup("{} and {}").format(Markup(", ").join(parts[:-1]), parts[-1])
