"""Numbers out of ratings as people and their tools write them.

    4   "4,5"   "4/5"   "4 of 5"   "★★★★☆"   "4 stars"   "80 %"   true   "👍"   "not like"
    {"rating": 4}   [{"rating": 4}]   [{"value": 4, "status": "submitted"}]   [4, 5]

Anything else is an error that names row and column; words get their numbers by a mapping.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from tgo.pipeline.errors import InputError

MISSING = frozenset({"", "n/a", "na", "nan", "null", "none", "-", "?"})
YES = frozenset(
    (
        "true", "yes", "y", "like", "liked", "good", "positive", "up", "thumbs up", "upvote",
        "win", "won", "chosen", "accept", "accepted", "👍", "❤",
    )
)  # fmt: skip
"""Words that count as 1 unless --labels says otherwise; `NO` are those that count as 0."""
NO = frozenset(
    (
        "false", "no", "n", "dislike", "disliked", "not like", "not liked", "bad", "negative",
        "down", "thumbs down", "downvote", "lose", "lost", "reject", "rejected", "👎",
    )
)  # fmt: skip
_SKIN_TONE = re.compile("[\U0001f3fb-\U0001f3ff\ufe0f]")
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(?:,\d{3})+")
"""One comma and three digits: a thousand to some, a decimal comma to others."""
_OUT_OF = re.compile(r"([+-]?\d+(?:[.,]\d+)?)\s*(?:/|of|out of)\s*(\d+)", re.IGNORECASE)
_COUNTED = re.compile(r"(\d+(?:[.,]\d+)?)\s*(?:stars?|★|⭐|points?|%)", re.IGNORECASE)
_STARS = re.compile(r"([★⭐]+)☆*")
_NUMBER_KEYS = ("rating", "value", "number", "score", "choices", "selected")
_LEFT_OUT = ("discarded", "draft", "pending")
"""States of an answer in Argilla that are no answer yet."""


class RatingValues:
    """Reads the ratings of one column; remembers their scale, which must not change on the way."""

    def __init__(self, labels: Mapping[str, float] | None = None) -> None:
        """`labels` are numbers for words, which are compared without regard to capitals."""
        self._labels = {text.strip().casefold(): value for text, value in (labels or {}).items()}
        self._out_of: float | None = None
        self._first: dict[bool, str] = {}  # the first word, and the first number that is no 0 or 1

    @property
    def labels(self) -> Mapping[str, float]:
        """Numbers by word, in lower case."""
        return self._labels

    @property
    def scale(self) -> str:
        """What the numbers are out of, in words, if the ratings say."""
        return "" if self._out_of is None else f" of {self._out_of:g}"

    def read(self, where: str, column: str, value: Any) -> list[float]:
        """Read the ratings of a cell.

        Args:
            where: the row's place in the source, for the error.
            column: the column of the cell.
            value: what the cell holds.

        Returns:
            The numbers; none where the cell is empty, several where it lists them.

        Raises:
            InputError: `where` and the column, for what is no rating.
        """
        if isinstance(value, list | tuple):
            return [number for each in value for number in self.read(where, column, each)]
        if isinstance(value, Mapping):
            return self._of_record(where, column, value)
        number = self._number(where, column, value)
        if number not in (None, 0.0, 1.0):
            self._check_kind(where, column, str(value), is_word=False)
        return [] if number is None else [number]

    def _of_record(self, where: str, column: str, record: Mapping[str, Any]) -> list[float]:
        if record.get("status") in _LEFT_OUT:
            return []
        key = next((key for key in _NUMBER_KEYS if key in record), None)
        if key is None:
            raise self._no_rating(where, column, dict(record))
        return self.read(where, column, record[key])

    def _number(self, where: str, column: str, value: Any) -> float | None:
        if isinstance(value, str):
            return self._of_text(where, column, value)
        if value is None:
            return None
        if not isinstance(value, bool | int | float | Decimal):
            raise self._no_rating(where, column, value)
        number = float(value)
        if math.isinf(number):
            raise InputError(f"{where}: {column} is infinite; write a number or leave it empty")
        return None if math.isnan(number) else number

    def _of_text(self, where: str, column: str, text: str) -> float | None:
        plain = text.strip()
        word = _SKIN_TONE.sub("", plain.casefold().replace("_", " ").replace("-", " ")).strip()
        if plain.casefold() in self._labels:
            return self._labels[plain.casefold()]
        if plain.casefold() in MISSING:
            return None
        if plain[0] in "[{":
            try:
                values = self.read(where, column, json.loads(plain))
            except (ValueError, RecursionError):
                raise self._no_rating(where, column, text) from None
            return math.fsum(values) / len(values) if values else None
        if word in YES or word in NO:
            self._check_kind(where, column, text, is_word=True)
            return float(word in YES)
        if match := _STARS.fullmatch(plain.replace("\ufe0f", "")):
            return float(len(match[1]))
        out_of = None
        if match := _OUT_OF.fullmatch(plain):
            plain, out_of = match[1], float(match[2])
        elif match := _COUNTED.fullmatch(plain):
            plain, out_of = match[1], 100.0 if plain.endswith("%") else None
        if _THOUSANDS.fullmatch(plain):
            raise InputError(
                f"{where}: {column} is {text!r}, a thousand to some and a fraction to others; "
                f"write {plain.replace(',', '')} or {plain.replace(',', '.', 1)}"
            )
        if _DECIMAL_COMMA.fullmatch(plain):
            plain = plain.replace(",", ".")
        try:
            number = self._number(where, column, float(plain))
        except ValueError:
            raise self._no_rating(where, column, text) from None
        if out_of is not None and number is not None:
            self._check_scale(where, column, text, number, out_of)
        return number

    def _check_kind(self, where: str, column: str, text: str, *, is_word: bool) -> None:
        """Words such as like count 0 or 1; beside a 4 that would mean nothing."""
        self._first.setdefault(is_word, text)
        if len(self._first) > 1:
            raise InputError(
                f"{where}: {column} is {text!r}, an earlier one {self._first[not is_word]!r}; give "
                "the words numbers on the same scale with --labels 'good=5,bad=1'"
            )

    def _check_scale(
        self, where: str, column: str, text: str, number: float, out_of: float
    ) -> None:
        if not 0 <= number <= out_of or not out_of:
            raise InputError(f"{where}: {column} is {text!r}, which lies outside its own scale")
        if self._out_of not in (None, out_of):
            raise InputError(
                f"{where}: {column} is out of {out_of:g}, earlier ones out of {self._out_of:g}; "
                "use one scale"
            )
        self._out_of = out_of

    def _no_rating(self, where: str, column: str, value: Any) -> InputError:
        return InputError(
            f"{where}: {column} is {str(value)[:60]!r}, which is no number; write one, give words "
            "their numbers with --labels 'good=1,bad=0', or name another column of ratings"
        )


def parse_labels(text: str | None) -> dict[str, float]:
    """The mapping of an option such as `good=1,bad=0`.

    Args:
        text: the option; None and an empty text give no labels.

    Returns:
        Numbers by word.

    Raises:
        InputError: a part of it is no word with a number.
    """
    mapping = {}
    for part in (text or "").split(","):
        if not part.strip():
            continue
        word, equals, number = part.rpartition("=")
        try:
            mapping[word.strip()] = float(number)
        except ValueError:
            equals = ""
        if not (word.strip() and equals):
            raise InputError(f"--labels {part!r}: write WORD=NUMBER, such as good=1,bad=0")
    return mapping
