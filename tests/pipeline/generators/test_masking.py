from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from tgo.pipeline.generators.masking import (
    cosine_share,
    draw_masks,
    draw_tokens,
    hidden_counts,
    least_confident,
)


@given(st.integers(1, 64), st.integers(1, 300))
def test_every_step_reveals_something_and_the_last_the_rest(steps: int, tokens: int) -> None:
    counts = hidden_counts(steps, tokens)
    assert len(counts) == steps + 1
    assert counts[0] == tokens
    assert counts[-1] == 0
    assert all(after <= before for before, after in pairwise(counts))
    assert all(count >= 1 for count in counts[:-1])
    if steps <= tokens:
        assert len(set(counts)) == len(counts)


def test_the_schedule_is_the_cosine() -> None:
    expected = [64, 62, 59, 53, 45, 35, 24, 12, 0]  # floor(64 cos(pi i / 16))
    assert hidden_counts(8, 64) == expected
    assert math.isclose(float(cosine_share(torch.tensor(0.5))), math.sqrt(0.5), rel_tol=1e-6)


@given(st.integers(0, 2**32), st.integers(1, 20), st.integers(1, 6), st.integers(1, 6))
def test_masks_hide_at_least_one_token(seed: int, size: int, rows: int, columns: int) -> None:
    masks = draw_masks(size, (rows, columns), torch.Generator().manual_seed(seed))
    assert masks.shape == (size, rows, columns)
    assert masks.dtype == torch.bool
    assert masks.flatten(1).any(dim=1).all()
    again = draw_masks(size, (rows, columns), torch.Generator().manual_seed(seed))
    assert torch.equal(masks, again)


def test_masks_hide_by_the_cosine_of_a_uniform_draw_and_every_place_alike() -> None:
    masks = draw_masks(20_000, (4, 5), torch.Generator().manual_seed(0)).float()
    shares = masks.flatten(1).mean(dim=1)
    assert abs(float(shares.mean()) - 2 / math.pi) < 0.01  # the mean of cos over a quarter turn
    assert abs(float((shares > math.sqrt(0.5)).float().mean()) - 0.5) < 0.06
    places = masks.mean(dim=0)
    assert float(places.max() - places.min()) < 0.02


def test_tokens_follow_their_probabilities() -> None:
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0]).view(1, 4, 1, 1).expand(1, 4, 1, 40_000)
    uniform = torch.rand(1, 1, 40_000, generator=torch.Generator().manual_seed(0))
    tokens, log_probability = draw_tokens(logits, uniform)
    shares = np.bincount(tokens.flatten().numpy(), minlength=4) / 40_000
    expected = torch.softmax(logits[0, :, 0, 0], dim=0)
    np.testing.assert_allclose(shares, expected.numpy(), atol=0.01)
    torch.testing.assert_close(log_probability, expected[tokens].log())


@given(st.floats(0, 1, exclude_max=True, width=32), st.integers(0, 3))
def test_impossible_tokens_are_never_drawn(uniform: float, only: int) -> None:
    logits = torch.full((1, 4, 1, 1), -torch.inf)
    logits[0, only] = 0.0
    tokens, _ = draw_tokens(logits, torch.full((1, 1, 1), uniform))
    assert tokens.item() == only


def test_the_least_confident_are_hidden_again_and_never_what_was_shown() -> None:
    confidence = torch.tensor([[[-9.0, -1.0, -3.0], [-2.0, -4.0, -5.0]]])
    hidden = torch.tensor([[[False, True, True], [True, True, True]]])
    half = torch.full(confidence.shape, 0.5)
    again = least_confident(confidence, hidden, half, 0.0, 2)
    assert again.tolist() == [[[False, False, False], [False, True, True]]]
    assert not least_confident(confidence, hidden, half, 0.0, 0).any()
    # noise can turn the order, but not bring back what is shown
    uniform = torch.tensor([[[1e-9, 1e-9, 0.999], [0.999, 0.999, 0.999]]])
    noisy = least_confident(confidence, hidden, uniform, 100.0, 1)
    assert noisy.tolist() == [[[False, True, False], [False, False, False]]]
