"""What the report says: metrics turned into headlines, tiles and table rows.

Direction is decided by the interval alone: "up" and "down" when all of it lies on one side of
zero, "flat" otherwise. No sentence claims more than its interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup
from tgo.pipeline.config.settings import Settings
from tgo.pipeline.evaluation.stats import Interval
from tgo.pipeline.storage.results import FACTS, GOLD
from tgo.pipeline.wording import TITLES, Formats, percent, points

_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def direction(row: Mapping[str, float]) -> str:
    """Where the interval of a difference lies: "up", "down" or "flat"."""
    change = Interval(row["difference"], row["low"], row["high"])
    if not change.excludes_zero:
        return "flat"
    return "up" if change.low > 0 else "down"


class Headline(NamedTuple):
    """The first lines of the page."""

    kicker: str
    title: str
    lead: Markup


def headline(settings: Settings, metrics: Mapping[str, Any], formats: Formats) -> Headline:
    """The report in two sentences, true whichever way the result went."""
    reward = settings.shown_reward
    sets = _sets(settings, metrics)
    rows = {name: metrics[name][reward] for name in sets}
    lead = Markup("Mean change of {}: {}. The tuned image wins {} of same-seed pairs.").format(
        TITLES[reward],
        _listed(
            [_on(formats.change(row["difference"], reward), name) for name, row in rows.items()]
        ),
        _listed([_strong(percent(row["win_rate"], 0)) for row in rows.values()]),
    )
    if all(GOLD in metrics[name] for name in sets):
        lead += _gold_sentence(metrics, sets)
    lead += _others_sentence(metrics, sets, reward)
    kicker = f"Alignment report · {settings.train.objective.upper()} · {settings.generator.model}"
    return Headline(kicker, _title(TITLES[reward], rows), lead)


def _title(reward: str, rows: Mapping[str, Mapping[str, float]]) -> str:
    verbs = {"up": "rose", "down": "fell", "flat": "shows no clear change"}
    by_direction: dict[str, list[str]] = {}
    for name, row in rows.items():
        by_direction.setdefault(direction(row), []).append(name)
    if len(by_direction) == 1:
        every = "both" if len(rows) == 2 else f"all {_count(len(rows))}"
        where = f"{every} test sets" if len(rows) > 1 else next(iter(rows))
        return f"{reward} {verbs[next(iter(by_direction))]} on {where}"
    parts = [
        f"{verbs[way]} on {_listed(by_direction[way])}"
        for way in ("up", "down", "flat")
        if way in by_direction
    ]
    return f"{reward} {', '.join(parts)}"


def _gold_sentence(metrics: Mapping[str, Any], sets: Sequence[str]) -> Markup:
    changes = []
    for name in sets:
        row = metrics[name][GOLD]
        change = Markup("{} to {}").format(percent(row["base"], 0), percent(row["tuned"], 0))
        changes.append(_on(change, name))
    return Markup(" By the gold judge, images with everything right went from {}.").format(
        _listed(changes)
    )


def _others_sentence(metrics: Mapping[str, Any], sets: Sequence[str], reward: str) -> str:
    ways = [
        direction(row)
        for name in sets
        for other, row in metrics[name].items()
        if other not in (reward, GOLD)
    ]
    if not ways:
        return ""
    up, down = ways.count("up"), ways.count("down")
    return (
        f" Of {len(ways)} comparisons by the other reward models, {up} rose clearly and "
        f"{down} fell."
    )


def tiles(settings: Settings, metrics: Mapping[str, Any], formats: Formats) -> list[dict[str, Any]]:
    """One headline figure per test set: the change of the feedback reward."""
    reward = settings.shown_reward
    return [
        {"set_name": name, "gold": metrics[name].get(GOLD)}
        | _reward_row(metrics[name][reward], reward, formats)
        for name in _sets(settings, metrics)
    ]


def table(settings: Settings, metrics: Mapping[str, Any], formats: Formats) -> list[dict[str, Any]]:
    """Test set by reward model, with the gold judge last."""
    groups = []
    for name in _sets(settings, metrics):
        rows = [
            _reward_row(metrics[name][reward], reward, formats)
            | {"title": TITLES[reward], "feedback": reward == settings.label.leading}
            for reward in settings.rewards
        ]
        if GOLD in metrics[name]:
            rows.append(_gold_row(metrics[name][GOLD]))
        counts = metrics[FACTS]["sets"][name]
        excluded = f", {counts['excluded']} pairs excluded" if counts["excluded"] else ""
        note = f"{counts['prompts']} prompts, {counts['images']} pairs{excluded}"
        groups.append({"name": name, "note": note, "rows": rows})
    return groups


def _reward_row(row: Mapping[str, float], reward: str, formats: Formats) -> dict[str, Any]:
    return {
        "direction": direction(row),
        "base": formats.score(row["base"], reward),
        "tuned": formats.score(row["tuned"], reward),
        **{key: formats.change(row[key], reward) for key in ("difference", "low", "high")},
        "wins": Interval(row["win_rate"], row["win_low"], row["win_high"]),
    }


def _gold_row(row: Mapping[str, float]) -> dict[str, Any]:
    return {
        "title": "Gold judge: everything right",
        "feedback": False,
        "direction": direction(row),
        "base": percent(row["base"]),
        "tuned": percent(row["tuned"]),
        **{key: points(row[key]) for key in ("difference", "low", "high")},
        "wins": None,
    }


def results_note(metrics: Mapping[str, Any]) -> str:
    """How the figures of the table were made."""
    facts = metrics[FACTS]
    count = facts["images_per_prompt"]
    images = "one image" if count == 1 else f"{count} images"
    return (
        f"Both models drew the same prompts from the same noise, {images} a prompt: "
        f"{facts['sampler']}, {facts['steps']} steps, guidance "
        f"{facts['guidance_scale']:g}, {facts['dtype']}. Means over prompts; intervals are "
        "bootstrapped over prompts. Win rate: how often the tuned image scores higher than the "
        "base image of its seed; a tie is half a win."
    )


def training_note(settings: Settings) -> str:
    """What was trained and how, in a line."""
    train = settings.train
    return (
        f"{train.objective.upper()}, {train.steps:,} steps of {train.batch_size}: "
        f"{train.steps * train.batch_size:,} images seen. Each point is a mean over "
        f"{train.log_every} steps."
    )


def extremes(cards: Mapping[str, Sequence[Any]], reward: str) -> list[dict[str, Any]]:
    """The galleries that are chosen by score, with what they are chosen for."""
    told = {
        "best": ("Highest scores", f"Tuned images with the highest {reward}."),
        "worst": ("Lowest scores", f"Tuned images with the lowest {reward}."),
        "gains": ("Biggest gains", f"Pairs in which tuning raised {reward} most."),
        "losses": ("Biggest losses", f"Pairs in which tuning lowered {reward} most."),
    }
    return [
        {"title": title, "note": note, "cards": cards[name]} for name, (title, note) in told.items()
    ]


def settings_groups(settings: Settings) -> list[tuple[str, list[tuple[str, str]]]]:
    """The settings as lists of (name, value): first the single ones, then group by group."""
    single: list[tuple[str, str]] = []
    groups = [("run", single)]
    for name, value in settings.model_dump(mode="json").items():
        if isinstance(value, dict):
            groups.append((name, _flat(value)))
        else:
            single.append((name, _plain(value)))
    return groups


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            rows.extend(_flat(value, f"{prefix}{name}."))
        else:
            rows.append((f"{prefix}{name}", _plain(value)))
    return rows


def _plain(value: Any) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _sets(settings: Settings, metrics: Mapping[str, Any]) -> list[str]:
    return [name for name in settings.prompts.tests if name in metrics]


def _on(change: str, name: str) -> Markup:
    return Markup("<strong>{}</strong> on {}").format(change, name)


def _strong(text: str) -> Markup:
    return Markup("<strong>{}</strong>").format(text)


def _listed(parts: Sequence[str]) -> Markup:
    if len(parts) == 1:
        return Markup("{}").format(parts[0])
    return Markup("{} and {}").format(Markup(", ").join(parts[:-1]), parts[-1])


def _count(number: int) -> str:
    return _WORDS[number] if number < len(_WORDS) else str(number)
