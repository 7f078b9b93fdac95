"""Numbers and texts as they are printed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgo.pipeline import wording


@given(st.text())
def test_no_text_of_anyones_steers_a_terminal(text: str) -> None:
    shown = wording.harmless(text)
    assert len(shown) == len(text)
    assert wording.harmless(shown) == shown
    assert all(letter >= " " or letter in "\n\t" for letter in shown)


@pytest.mark.parametrize("letter", ["\x1b", "\x07", "\x9b", "\u202e", "\u2066", "\r"])
def test_what_is_replaced(letter: str) -> None:
    assert wording.harmless(f"a{letter}[31mb") == "a\N{REPLACEMENT CHARACTER}[31mb"


def test_writing_of_the_world_stays() -> None:
    text = "naïve 猫 قطة חתול 👩‍🚀 x²"
    assert wording.harmless(text) == text
