"""OCR as a reward: text that was asked for and can be read scores, on real pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from tgo.rewards.panel import Panel
from tgo.rewards.text_in_image import quoted, readable

WORDS = st.text("abcdefgh ", max_size=12)


def sign(text: str) -> torch.Tensor:
    picture = Image.new("RGB", (256, 96), "white")
    ImageDraw.Draw(picture).text((12, 24), text, fill="black", font=ImageFont.load_default(34))
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


@pytest.mark.slow
def test_what_is_asked_for_and_shown_scores_and_nothing_else() -> None:
    panel = Panel.load({"ocr": {"module": "tgo.rewards.text_in_image"}})
    prompts = ['a sign "OPEN HERE"', 'a sign "OPEN HERE"', 'a sign "OPEN HERE"', "a white wall"]
    images = torch.stack([sign("OPEN HERE"), sign("OPEN THERE"), sign(""), sign("")])
    found = panel.score(images, prompts)["ocr"]
    assert found[0] == 1.0
    assert 0.7 < found[1] <= 1.0
    assert found[2] == 0.0
    assert found[3] == 1.0  # no text was asked for
    facts = panel.describe()["ocr"]
    assert facts["model"] == "rapidocr"
    assert len(facts["checkpoint_sha256"]) == 64


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ('a sign that says "Stop!"', "Stop!"),
        ("a mug with “good day” and 'tea'", "good day tea"),
        ("it's a dog's bone", ""),
        ("«Bonjour» on a wall", "Bonjour"),
        ("„Guten Tag“ on a wall", "Guten Tag"),
        ("no text", ""),
    ],
)
def test_text_in_quotes_of_several_kinds(prompt: str, text: str) -> None:
    assert quoted(prompt) == text


@given(WORDS, WORDS, WORDS)
def test_text_that_is_there_scores_1_whatever_stands_around_it(a: str, b: str, c: str) -> None:
    assert readable(b, f"{a}{b}{c}") == 1.0
    assert 0.0 <= readable(a, b) <= 1.0
    assert readable(a.upper(), a) == 1.0


def test_each_wrong_letter_costs_its_share() -> None:
    assert readable("open", "oxen") == 0.75
    assert readable("open", "o p e n !") == 1.0
    assert readable("open", "") == 0.0
