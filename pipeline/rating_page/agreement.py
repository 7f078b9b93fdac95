"""How far raters can be trusted: with each other, with themselves, with known answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_CHOICES = {"b": 0.0, "tie": 0.5, "a": 1.0}


@dataclass(frozen=True)
class Share:
    """So many of so many."""

    right: int
    of: int


def value(row: Mapping[str, Any]) -> float:
    """An answer as a number: the rating, or what the first picture of a pair won."""
    return _CHOICES[row["preferred"]] if "preferred" in row else float(row["rating"])


def is_close(answer: Any, known: Any, scale: int) -> bool:
    """Whether two answers agree: the same choice, or ratings a step apart on five steps or more."""
    if isinstance(answer, str) or isinstance(known, str):
        return bool(answer == known)
    return bool(abs(answer - known) <= (1 if scale >= 5 else 0))


def repeats(rows: Sequence[Mapping[str, Any]], again: Sequence[Mapping[str, Any]]) -> Share:
    """Of the questions asked twice, those that got the same answer or one next to it.

    Args:
        rows: The first answers.
        again: The second ones; each row has its `scale`.

    Returns:
        The shares of pictures.
    """
    first = {_item(row): row for row in rows}
    told = [(first[_item(row)], row) for row in again if _item(row) in first]
    same = sum(is_close(_answer(one), _answer(two), int(two["scale"])) for one, two in told)
    return Share(same, len(told))


def known(rows: Sequence[Mapping[str, Any]]) -> Share:
    """Of the questions with a known answer, those that were answered so, or a step beside."""
    right = sum(is_close(_answer(row), row["expected"], int(row["scale"])) for row in rows)
    return Share(right, len(rows))


def _item(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["rater"], row["question"], row.get("id")


def _answer(row: Mapping[str, Any]) -> Any:
    return row["preferred"] if "preferred" in row else float(row["rating"])
