"""Who is asked what next, and what an answer becomes on disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tgo.pipeline.errors import InputError
from tgo.pipeline.rating_page import agreement, pictures
from tgo.pipeline.rating_page.answers import CHECKS, TABLE, Answers, Row
from tgo.pipeline.rating_page.kinds import Kind
from tgo.pipeline.rating_page.pictures import Picture
from tgo.pipeline.rating_page.questions import Question, draw
from tgo.pipeline.sources import raters

APART = 10
"""Answers that lie between a question and its repetition, at least."""
RECENT = 30
"""Answers whose time counts for the rate per hour."""
LONGEST = 3600.0
"""Seconds that one answer can take at most; who took longer was away."""


@dataclass(frozen=True)
class Options:
    """What holds for all raters."""

    scale: int = 5
    """The best rating; the worst is 1."""
    votes: int | None = None
    """Raters after whom a question is done; None asks every rater everything."""
    limit: int | None = None
    """Questions a rater is asked at most."""
    gold_share: float = 0.1
    """Share of questions with a known answer, where there are any."""
    repeat_share: float = 0.05
    """Share of questions that are asked again."""
    seed: int = 0


@dataclass(frozen=True)
class Asked:
    """A question as one rater sees it."""

    question: Question
    check: str | None
    """gold or repeat where the answer is no feedback."""
    shown: tuple[Picture, ...]
    """Its pictures from left to right."""
    files: tuple[str, ...]
    """Their files beside the answers."""


class Session:
    """The questions and the answers so far; call it from one thread at a time."""

    def __init__(
        self,
        questions: Sequence[Question],
        answers: Answers,
        options: Options,
        gold: Mapping[str, float | str] | None = None,
    ) -> None:
        """Begin or go on.

        Args:
            questions: All of them, the first to be asked first.
            answers: What was answered so far.
            options: What holds for all raters.
            gold: Known answers by question.
        """
        self.answers, self.options = answers, options
        self._gold = dict(gold or {})
        self._questions = {question.key: question for question in questions}
        self._pending: dict[str, Asked] = {}

    def next(self, rater: str) -> Asked | None:
        """The question that a rater has to answer; the same one until it is answered.

        Args:
            rater: Who asks.

        Returns:
            The question; None where nothing is left for this rater.
        """
        if rater not in self._pending:
            chosen = self._choose(rater)
            if chosen is None:
                return None
            self._pending[rater] = self._as_seen(rater, *chosen)
        return self._pending[rater]

    def answer(self, rater: str, key: str, values: Sequence[Any], seconds: float) -> None:
        """Write an answer down; one to a question that is no longer asked changes nothing.

        Args:
            rater: Who answers.
            key: The question's key, so that an answer that is sent again counts once.
            values: A whole number from 1 to the scale for each picture shown; of a pair one of
                left, right, tie.
            seconds: How long the rater took.

        Raises:
            InputError: a value is none of these, or the disk refuses it.
        """
        asked = self._pending.get(rater)
        if asked is None or asked.question.key != key:
            return
        common = {
            "answered": datetime.now(UTC).isoformat(timespec="microseconds"),
            "domain": asked.question.domain,
            "prompt": asked.question.prompt,
            "question": key,
            "rater": rater,
            "seconds": round(min(max(seconds, 0.0), LONGEST), 2),
        }
        rows = self._rows(asked, values, common)
        if asked.check:
            known = {"check": asked.check, "scale": self.options.scale}
            if asked.check == "gold":
                known["expected"] = self._gold[key]
            rows = [row | known for row in rows]
        self.answers.add(rows, CHECKS if asked.check else TABLE)
        del self._pending[rater]

    def skip(self, rater: str, key: str) -> None:
        """Leave a question out for this rater."""
        asked = self._pending.get(rater)
        if asked is None or asked.question.key != key:
            return
        now = datetime.now(UTC).isoformat(timespec="microseconds")
        row: Row = {"answered": now, "check": "skip", "parts": 1, "question": key, "rater": rater}
        self.answers.add([row], CHECKS)
        del self._pending[rater]

    def undo(self, rater: str) -> None:
        """Take the rater's last answer back and ask its question again."""
        row = self.answers.undo(rater)
        if row is not None and (key := row["question"]) in self._questions:
            check = row.get("check") if row.get("check") != "skip" else None
            check = "gold" if key in self._gold else check
            self._pending[rater] = self._as_seen(rater, self._questions[key], check)

    def progress(self, rater: str) -> dict[str, Any]:
        """Figures of one rater and of all: numbers and shares, ready for JSON."""
        mine = self.answers.of(rater)
        checks = [row for row in self.answers.checks if row["rater"] == rater]
        recent = [row["seconds"] for row in mine if row["part"] == 1][-RECENT:]
        again = [row for row in checks if row["check"] == "repeat"]
        known = [row for row in checks if row["check"] == "gold"]
        return {
            "answered": len({row["question"] for row in mine}),
            "left": self._left(rater),
            "per_hour": round(3600 * len(recent) / max(sum(recent), 1.0)) if recent else None,
            "alpha": self._alpha(),
            "raters": len({row["rater"] for row in self.answers.rows}),
            "repeats": vars(agreement.repeats(mine, again)),
            "gold": vars(agreement.known(known)),
        }

    def _alpha(self) -> float | None:
        rows = self.answers.rows
        pairs = bool(rows) and "preferred" in rows[0]
        told = [
            (row["rater"], row.get("id") or row["question"], agreement.value(row)) for row in rows
        ]
        return raters.alpha(told, "nominal" if pairs else "ordinal")

    def _open(self, rater: str) -> list[Question]:
        """The questions that this rater may still be asked, as feedback."""
        done, counts = set(self.answers.done_by(rater)), self.answers.counts()
        counts += Counter(
            asked.question.key for who, asked in self._pending.items() if who != rater
        )
        votes = self.options.votes
        found = [
            question
            for key, question in self._questions.items()
            if key not in done and key not in self._gold and (votes is None or counts[key] < votes)
        ]
        return sorted(found, key=lambda question: counts[question.key])

    def _left(self, rater: str) -> int:
        left = len(self._open(rater))
        if self.options.limit is None:
            return left
        return min(left, max(self.options.limit - len(self.answers.done_by(rater)), 0))

    def _choose(self, rater: str) -> tuple[Question, str | None] | None:
        done = len(self.answers.done_by(rater))
        if self.options.limit is not None and done >= self.options.limit:
            return None
        open_ = self._open(rater)
        if not open_:
            return None
        luck = draw(self.options.seed, "check", rater, str(done))
        if luck < self.options.gold_share and (known := self._unseen_gold(rater)):
            return known, "gold"
        if 1 - luck < self.options.repeat_share and (again := self._to_repeat(rater)):
            return again, "repeat"
        return open_[0], None

    def _unseen_gold(self, rater: str) -> Question | None:
        done = set(self.answers.done_by(rater))
        keys = sorted(key for key in self._gold if key not in done)
        return self._questions[keys[0]] if keys else None

    def _to_repeat(self, rater: str) -> Question | None:
        """The rater's earliest answer that was not repeated, unless it was only just given."""
        again = {row["question"] for row in self.answers.checks if row["rater"] == rater}
        given = list(dict.fromkeys(row["question"] for row in self.answers.of(rater)))
        keys = [key for key in given[:-APART] if key not in again and key in self._questions]
        return self._questions[keys[0]] if keys else None

    def _as_seen(self, rater: str, question: Question, check: str | None) -> Asked:
        """Sides and places at random, other ones at a repetition."""
        again = "again" if check == "repeat" else "first"

        def place(number: int) -> float:
            return draw(self.options.seed, "place", rater, again, question.key, str(number))

        order = sorted(range(len(question.pictures)), key=place)
        shown = tuple(question.pictures[number] for number in order)
        files = tuple(pictures.save(picture, self.answers.folder) for picture in shown)
        return Asked(question, check, shown, files)

    def _rows(self, asked: Asked, values: Sequence[Any], common: Row) -> list[Row]:
        if asked.question.kind is Kind.pair:
            return [self._pair_row(asked, values, common)]
        if len(values) != len(asked.shown) or not all(self._is_rating(v) for v in values):
            raise InputError(
                f"{values!r:.80} is no answer; it takes {len(asked.shown)} ratings from 1 to "
                f"{self.options.scale}"
            )
        return [
            common
            | {"file_name": name, "id": picture.id, "part": part, "parts": len(values)}
            | {"rating": rating}
            for part, (name, picture, rating) in enumerate(
                zip(asked.files, asked.shown, values, strict=True), start=1
            )
        ]

    def _pair_row(self, asked: Asked, values: Sequence[Any], common: Row) -> Row:
        if len(values) != 1 or values[0] not in ("left", "right", "tie"):
            raise InputError(f"{values!r:.80} is no answer; it takes one of left, right, tie")
        first, second = asked.question.pictures
        swapped = asked.shown[0] is not first
        preferred = {"left": "b" if swapped else "a", "right": "a" if swapped else "b"}
        one, two = reversed(asked.files) if swapped else asked.files
        return common | {
            "image_a": one,
            "image_b": two,
            "id_a": first.id,
            "id_b": second.id,
            "left": "b" if swapped else "a",
            "part": 1,
            "parts": 1,
            "preferred": preferred.get(values[0], "tie"),
        }

    def _is_rating(self, number: Any) -> bool:
        whole = isinstance(number, int) and not isinstance(number, bool)
        return whole and 1 <= number <= self.options.scale
