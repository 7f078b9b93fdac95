"""Ratings as people write them."""

from __future__ import annotations

import math
from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgo.pipeline.errors import InputError
from tgo.pipeline.sources.rating_values import RatingValues, parse_labels


def read(value: Any, **labels: float) -> list[float]:
    return RatingValues(labels).read("r.csv, line 2", "stars", value)


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (4, 4.0),
        (Decimal("4.5"), 4.5),
        (True, 1.0),
        ("4,5", 4.5),
        (" 4.5 ", 4.5),
        ("4/5", 4.0),
        ("4 of 5", 4.0),
        ("★★★★☆", 4.0),
        ("⭐⭐⭐", 3.0),
        ("4 stars", 4.0),
        ("80 %", 80.0),
        ("FALSE", 0.0),
        ("👍", 1.0),
        ("👍🏽", 1.0),
        ("thumbs-down", 0.0),
        ("not like", 0.0),
        ('[{"rating": 4}]', 4.0),
    ],
)
def test_numbers(value: Any, number: float) -> None:
    assert read(value) == [number]


@pytest.mark.parametrize("value", [None, "", " ", "N/A", float("nan"), "nan", "null", []])
def test_no_rating(value: Any) -> None:
    assert read(value) == []


def test_words_by_a_mapping_come_first() -> None:
    assert read("Great", great=5.0) == [5.0]
    assert read("good", good=3.0) == [3.0]
    assert parse_labels("very good=2, bad = 0") == {"very good": 2.0, "bad": 0.0}
    with pytest.raises(InputError, match="write WORD=NUMBER"):
        parse_labels("good")


@pytest.mark.parametrize("value", ["so-so", "4;5", {"a": 1}, float("inf"), "[1, ", b"x"])
def test_anything_else_names_its_row_and_column(value: Any) -> None:
    with pytest.raises(InputError, match=r"r\.csv, line 2: stars is "):
        read(value)


def test_a_scale_must_not_change() -> None:
    values = RatingValues()
    values.read("line 1", "stars", "4/5")
    assert values.scale == " of 5"
    with pytest.raises(InputError, match="line 2: stars is out of 10, earlier ones out of 5"):
        values.read("line 2", "stars", "4/10")


@given(st.text() | st.floats() | st.lists(st.text(), max_size=3))
def test_whatever_is_written_is_a_number_nothing_or_one_kind_of_error(value: Any) -> None:
    numbers = []
    with suppress(InputError):
        numbers = read(value)
    assert all(math.isfinite(number) for number in numbers)
