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


def test_a_share_is_out_of_a_hundred() -> None:
    values = RatingValues()
    assert values.read("line 1", "stars", "80 %") == [80.0]
    with pytest.raises(InputError, match="line 2: stars is out of 5, earlier ones out of 100"):
        values.read("line 2", "stars", "4/5")


@pytest.mark.parametrize("value", ["6/5", "-3/5", "0/0", "120 %"])
def test_a_rating_lies_on_its_own_scale(value: str) -> None:
    with pytest.raises(InputError, match=r"line 2: stars is .* outside its own scale"):
        read(value)


@pytest.mark.parametrize("value", ["1,234", "12,000", "1,234,567"])
def test_a_comma_that_may_mean_thousands_is_refused(value: str) -> None:
    with pytest.raises(InputError, match=f"line 2: stars is .*write {value.replace(',', '')} or"):
        read(value)
    assert read("0,125") == [0.125]


@pytest.mark.parametrize("pair", [("like", "4"), (4, "like"), ("3/5", "👍")])
def test_words_and_numbers_do_not_mix(pair: tuple[Any, Any]) -> None:
    values = RatingValues()
    values.read("line 1", "stars", pair[0])
    with pytest.raises(InputError, match=r"line 2: stars is .*, an earlier one .*--labels"):
        values.read("line 2", "stars", pair[1])
    assert [RatingValues().read("", "liked", word) for word in ("1", "like")] == [[1.0], [1.0]]


@given(st.text() | st.floats() | st.lists(st.text(), max_size=3))
def test_whatever_is_written_is_a_number_nothing_or_one_kind_of_error(value: Any) -> None:
    numbers = []
    with suppress(InputError):
        numbers = read(value)
    assert all(math.isfinite(number) for number in numbers)
