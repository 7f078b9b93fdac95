"""The outcome in words that its intervals carry: for the terminal, the report and the model card.

A score *rose* on a test set when the interval of its mean change lies above zero and its win rate
is not clearly below one half; it *fell* when either of the two is clearly a fall.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from tgo.pipeline.evaluation.compared import Row
from tgo.pipeline.storage.results import FACTS, TRUTH, UTILITY, is_judged
from tgo.pipeline.wording import TITLES, percent

Way = Literal["up", "down", "flat"]


class Against(NamedTuple):
    """The clearest sign that a score got worse on a set."""

    score: str
    set_name: str
    row: Row


def way(row: Mapping[str, float]) -> Way:
    """Where a score went, as its intervals of mean and win rate tell."""
    if row["high"] < 0 or row.get("win_high", 1.0) < 0.5:
        return "down"
    return "up" if row["low"] > 0 else "flat"


def sentence(metrics: Mapping[str, Any], reward: str | None) -> str:
    """The outcome: the main score, the truth or what stands in for it, what speaks against it."""
    sets = {name: rows for name, rows in metrics.items() if name != FACTS}
    parts = []
    if reward is not None:
        parts.append(f"{TITLES[reward]} {_moves([rows[reward] for rows in sets.values()], sets)}")
    if all(TRUTH in rows for rows in sets.values()):
        moves = _moves([rows[TRUTH] for rows in sets.values()], sets, "clearly ")
        parts.append(f"the truth {moves}")
        own = f"{UTILITY}{reward}"
        if reward and all(own in rows for rows in sets.values()):
            moves = _moves([rows[own] for rows in sets.values()], sets, "clearly ")
            parts.append(f"what {TITLES[reward]}'s raters like {moves}")
    elif reward is not None:
        parts += _others(sets, reward)
    if found := against(metrics, reward):
        parts.append(_loses(found))
    if told := metrics.get(FACTS, {}).get("people"):
        parts.append(_preferred(told))
    return "; ".join(parts) or "no score compares the two models: look at the pictures"


def against(metrics: Mapping[str, Any], reward: str | None) -> Against | None:
    """Of the scores that are not the main one, the clearest fall.

    A win rate clearly below one half comes before a mean that clearly fell.
    """
    falls = [
        Against(score, name, row)
        for name, rows in metrics.items()
        if name != FACTS
        for score, row in rows.items()
        if score != reward and not is_judged(score) and way(row) == "down"
    ]
    return min(falls, key=_rank, default=None)


def _loses_pairs(row: Row) -> bool:
    return row.get("win_high", 1.0) < 0.5


def _rank(fall: Against) -> tuple[bool, float]:
    """A key that puts the clearest fall first."""
    clear = _loses_pairs(fall.row)
    return not clear, fall.row["win_rate"] if clear else fall.row.get("effect", 0.0)


def _preferred(people: Mapping[str, Mapping[str, Any]]) -> str:
    """Which model people prefer: the share on a single set, on several where it is clear."""
    if len(people) == 1:
        ((name, row),) = people.items()
        return (
            f"people prefer the tuned model in {percent(row['win_rate'], 0)} of {row['pairs']:,} "
            f"pairs on {name} ({100 * row['win_low']:.0f} to {percent(row['win_high'], 0)})"
        )
    tuned = sum(row["win_low"] > 0.5 for row in people.values())
    base = [name for name, row in people.items() if row["win_high"] < 0.5]
    text = f"people clearly prefer the tuned model on {tuned} of {len(people)} sets"
    return f"{text} and the base model on {' and '.join(base)}" if base else text


def _moves(rows: Sequence[Row], sets: Sequence[str] | Mapping[str, Any], how: str = "") -> str:
    """As "rose on 2 of 3 sets and fell on hard"; set names only where something fell."""
    ways, count = [way(row) for row in rows], len(rows)
    fell = [name for name, where in zip(sets, ways, strict=True) if where == "down"]
    rose = ways.count("up")
    if count == 1:
        only = next(iter(sets))
        return {"up": f"{how}rose on {only}", "down": f"fell on {only}"}.get(
            ways[0], f"shows no clear change on {only}"
        )
    if rose == 0 and not fell:
        return f"shows no clear change on any of {count} sets"
    if rose == 0:
        return f"fell on {len(fell)} of {count} sets" if len(fell) > 1 else f"fell on {fell[0]}"
    text = f"rose {how}on {rose} of {count} sets"
    return f"{text} and fell on {' and '.join(fell)}" if fell else text


def _others(sets: Mapping[str, Mapping[str, Row]], reward: str) -> list[str]:
    """The reward models that gave no feedback, in place of a truth."""
    ways = [way(row) for rows in sets.values() for name, row in rows.items() if name != reward]
    if not ways:
        return []
    return [
        f"of {len(ways)} comparisons by the other reward models {ways.count('up')} rose and "
        f"{ways.count('down')} fell"
    ]


def _loses(fall: Against) -> str:
    if _loses_pairs(fall.row):
        lost = percent(1 - fall.row["win_rate"], 0)
        return f"{TITLES[fall.score]} loses {lost} of pairs on {fall.set_name}"
    return f"the mean of {TITLES[fall.score]} fell on {fall.set_name}"
