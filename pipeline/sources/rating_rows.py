"""Reads the rows of a table of pictures as ratings; what every layout is made of."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, NamedTuple

from tgo.pipeline.errors import InputError
from tgo.pipeline.sources.image_table import NAMES, ImageTable
from tgo.pipeline.sources.pictures import Location
from tgo.pipeline.sources.rating_values import RatingValues
from tgo.pipeline.sources.table_rows import listed

RATINGS = ("rating", "score", "stars", "likes", "clicks", "overall_rating", "label")
COUNTS = ("n_ratings", "count")
RATERS = (
    "rater", "annotator", "user", "user_id", "user_hash", "worker", "completed_by",
    "annotation_id",
)  # fmt: skip

PAIRS = (
    ("image_a", "image_b"),
    ("image_0", "image_1"),
    ("image1", "image2"),
    ("image_1", "image_2"),
    ("left", "right"),
    ("left_image", "right_image"),
)
"""Names of the two pictures of a comparison."""
_PREFERENCES = (
    dict.fromkeys(("a", "left", "first", "chosen"), 1.0)
    | dict.fromkeys(("b", "right", "second", "rejected"), 0.0)
    | dict.fromkeys(("tie", "equal", "same", "both", "draw", "none", "0.5"), 0.5)
)
"""What the first picture of a comparison won, by the words people use."""


class Rating(NamedTuple):
    """`times` ratings of one picture with the mean `value`, as a row of a source says."""

    key: str
    """What tells the picture from others: its id, its file name, or a hash of its bytes."""
    prompt: str
    value: float
    location: Location
    times: int = 1
    domain: str = "all"
    rater: str = ""
    kept: tuple[str, ...] = ()
    """The values of the columns that are kept."""
    against: str = ""
    """The key of the picture that it was compared with, where it was."""
    is_rate: bool = False
    """Whether `value` is the share of `times` views that were clicked, and not a mean."""


class RatingRows:
    """The rows of one table; what rates nothing is left out and noted."""

    names = NAMES | {"rating": RATINGS, "count": COUNTS}

    def __init__(self, table: ImageTable) -> None:
        self.table = table
        self._values, self._counts = RatingValues(table.source.labels), RatingValues()
        self._kept: set[str] = set()  # columns to keep that a row had
        self._left_out: dict[str, list[int]] = {}
        for name in table.source.keep:
            if name not in table.columns and table.fixed:
                raise table.no_column("keep", name)

    @property
    def scale(self) -> str:
        """What ratings are out of, in words; after they were read."""
        return self._values.scale

    def notes(self) -> list[str]:
        """What was left out, with its places, a line a kind; after the ratings were read."""
        return [
            f"{self.table.name}: {len(rows):,} {what} left out ({self.table.units} {listed(rows)})"
            for what, rows in self._left_out.items()
        ]

    def check_kept(self) -> None:
        """InputError for a column to keep that no row had; after the ratings were read."""
        for name in self.table.source.keep:
            if name not in self._kept:
                raise InputError(
                    f"{self.table.name}: no rated row has a value {name!r} (--keep {name}); name "
                    "one that there is"
                )

    def leave_out(self, what: str, number: int) -> None:
        """Note a row that rates nothing."""
        self._left_out.setdefault(what, []).append(number)

    def records(self, lists: Sequence[str] = ()) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """The rows that are not empty."""
        for number, values in self.table.records(lists):
            if values is None:
                self.leave_out("empty lines", number)
            else:
                yield number, values

    def asked(self, key: str) -> str | None:
        """The name of a column that the user asked for."""
        return self.table.source.columns.get(key)

    def columns(self, rating: str | None = None) -> dict[str, str]:
        """The columns of a plain table by key; those that are missing are empty texts.

        Args:
            rating: the column of ratings, where the layout knows it.

        Returns:
            Column names under id, image, prompt, rating and so on.

        Raises:
            InputError: there is no column of pictures, prompts or ratings.
        """
        chosen = {
            key: rating if rating and key == "rating" else self.table.column(key, names) or ""
            for key, names in self.names.items()
        }
        if chosen["id"] == chosen["image"]:
            chosen["id"] = ""
        for key in ("image", "prompt", "rating"):
            if not chosen[key]:
                raise self.table.no_column(key)
        self.table.use_pictures([chosen["image"]])
        return chosen

    def prompt_column(self) -> str:
        """The column of prompts.

        Returns:
            Its name.

        Raises:
            InputError: there is none.
        """
        column = self.table.column("prompt", self.names["prompt"])
        if column is None:
            raise self.table.no_column("prompt")
        return column

    def require(self, columns: Sequence[str]) -> None:
        """Check that the columns of a layout are there."""
        for name in columns:
            if name not in self.table.columns:
                raise self.table.no_column("format", name)

    def rated(self, columns: Mapping[str, str]) -> Iterator[Rating]:
        """The ratings of a plain table."""
        for number, values in self.records(lists=[columns["rating"]]):
            scores = self.values_of(number, columns["rating"], values.get(columns["rating"]))
            prompt = self.text(number, values, columns["prompt"])
            if not scores:
                self.leave_out("rows without a rating", number)
            elif not self.table.has_picture(values, columns["image"]):
                self.leave_out("rows without a picture", number)
                continue
            if prompt is None:
                continue
            views = self.asked("views")
            times = self._count(number, values, views or columns["count"], least=0 if views else 1)
            if not times:
                self.leave_out("rows without a view", number)
                continue
            if views:
                scores = [self._rate(number, score, times, columns["rating"]) for score in scores]
            for score in scores:
                rating = self.rating(number, values, columns["image"], prompt, score)
                own = values.get(columns["id"])
                yield rating._replace(
                    key=rating.key if own in (None, "") else str(own),
                    times=times,
                    is_rate=views is not None,
                )

    def compared(
        self, number: int, values: Mapping[str, Any], pair: tuple[str, str], prompt: str, won: float
    ) -> Iterator[Rating]:
        """Both ratings of a row that compares two pictures; `won` is what the first one won."""
        if not all(self.table.has_picture(values, image) for image in pair):
            self.leave_out("comparisons that lack a picture", number)
            return
        both = [
            self.rating(number, values, image, prompt, score)
            for image, score in zip(pair, (won, 1 - won), strict=True)
        ]
        yield from compared(both)

    def about(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """What a row says beside the rating: fields `domain`, `rater` and `kept` of a `Rating`."""
        keep = self.table.source.keep
        self._kept |= {name for name in keep if name in values}
        found = {
            key: next((values[name] for name in names if values.get(name) not in (None, "")), None)
            for key, names in self._described_by.items()
        }
        return {
            "domain": "all" if found["domain"] is None else str(found["domain"]),
            "rater": "" if found["rater"] is None else str(found["rater"]),
            "kept": tuple("" if values.get(n) is None else str(values[n]) for n in keep),
        }

    @cached_property
    def _described_by(self) -> dict[str, tuple[str, ...]]:
        """Columns of a row's domain and rater: the one asked for or there, else usual names."""
        usual = {"domain": NAMES["domain"], "rater": RATERS}
        found = {key: self.table.column(key, names) for key, names in usual.items()}
        return {key: (name,) if name else usual[key] for key, name in found.items()}

    def rating(
        self, number: int, values: Mapping[str, Any], image: str, prompt: str, score: float
    ) -> Rating:
        """One rating of the picture that a row has under the column `image`."""
        return Rating(
            self.table.key_of(number, values, image),
            prompt,
            score,
            self.table.locate(number, values, image),
            **self.about(values),
        )

    def values_of(self, number: int, column: str, value: Any) -> list[float]:
        """The ratings of a cell; InputError for what is none."""
        return self._values.read(self.table.where(number), column, value)

    def value_of(self, number: int, column: str, value: Any) -> float:
        """The one rating of a cell; InputError where there is not exactly one."""
        numbers = self.values_of(number, column, value)
        if len(numbers) != 1:
            raise InputError(f"{self.table.where(number)}: {column} needs one number a picture")
        return numbers[0]

    def value(self, number: int, values: Mapping[str, Any], column: str) -> float | None:
        """The rating under a column; None if there is none."""
        numbers = self.values_of(number, column, values.get(column))
        return sum(numbers) / len(numbers) if numbers else None

    def text(self, number: int, values: Mapping[str, Any], column: str) -> str | None:
        """The prompt of a row; None, and noted, if there is none."""
        text = values.get(column)
        if isinstance(text, list) and len(text) == 1:
            text = text[0]
        if text is None or (isinstance(text, str) and not text.strip()):
            self.leave_out("rows without a prompt", number)
            return None
        if not isinstance(text, str):
            raise InputError(f"{self.table.where(number)}: {column} is {text!r}; make it a text")
        return text.strip()

    def preference(
        self,
        number: int,
        answer: Any,
        pair: tuple[str, str],
        values: Mapping[str, Any],
    ) -> float:
        """What the first picture of a pair won.

        Args:
            number: The row.
            answer: What the row says: a word, a picture's name, the number in its column's name
                (1 of image_1), 0.5 for a tie, or a word of --labels.
            pair: The columns of the two pictures.
            values: The row.

        Returns:
            1, 0, or 0.5 for a tie.

        Raises:
            InputError: the answer means neither.
        """
        answer = _selected(answer)
        word = f"{answer:g}" if isinstance(answer, float) else str(answer).strip().casefold()
        names = [str(values.get(column)).strip().casefold() for column in pair]
        words = _PREFERENCES | {pair[0]: 1.0, pair[1]: 0.0}
        if pair[0][-1].isdigit():
            words |= {pair[0][-1]: 1.0, pair[1][-1]: 0.0}
        words |= self._values.labels
        if word in words:
            return words[word]
        if word in names:
            return 1.0 - names.index(word)
        raise InputError(
            f"{self.table.where(number)}: {answer!r} says of neither {pair[0]} nor {pair[1]} that "
            "it is preferred; write a, b, left, right, tie, or a picture's name, or say what the "
            f"first one won with --labels '{word or 'word'}=1'"
        )

    def _rate(self, number: int, clicks: float, views: int, column: str) -> float:
        """Clicks as a share of views; InputError where they are more."""
        if not 0 <= clicks <= views:
            raise InputError(
                f"{self.table.where(number)}: {clicks:g} {column} of {views} views; write a number "
                "from 0 to the views"
            )
        return clicks / views

    def _count(self, number: int, values: Mapping[str, Any], column: str, *, least: int = 1) -> int:
        """How many ratings or views a row stands for, `least` where no column says."""
        where = self.table.where(number)
        counts = self._counts.read(where, column, values.get(column)) if column else []
        if not counts:
            return least
        if counts[0] < least or counts[0] != int(counts[0]):
            raise InputError(
                f"{where}: {column} is {counts[0]:g}; write how many ratings it stands for"
            )
        return int(counts[0])


def _selected(answer: Any) -> Any:
    """An answer as it is, or out of Label Studio's short forms: [{"selected": "left"}]."""
    if isinstance(answer, str) and answer.lstrip()[:1] in ("[", "{"):
        with suppress(ValueError, RecursionError):
            answer = json.loads(answer)
    if isinstance(answer, list) and len(answer) == 1:
        answer = answer[0]
    return answer.get("selected", answer) if isinstance(answer, Mapping) else answer


def compared(both: Sequence[Rating]) -> Iterator[Rating]:
    """Two ratings of one comparison, each with the other's picture."""
    for one, other in zip(both, reversed(both), strict=True):
        yield one._replace(against=other.key)
