"""Preference losses, choices of raters, and the standardisation of rewards."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from data.world.preferences import choices, preference_loss, standardise
from data.world.raters import MERITS, POPULATIONS
from data.world.towers import BLIP_VISION, blip_text
from rewards.imagereward import MEAN, STD, ImageRewardNetwork

PICKSCORE = POPULATIONS["pickscore"]


def test_two_pictures_give_pickscores_cross_entropy() -> None:
    scores = torch.randn(8, 2)
    felt = torch.rand(8, 2)
    chosen = (felt[:, :, None] > felt[:, None, :]).float()
    expected = F.cross_entropy(scores, felt.argmax(dim=1))
    torch.testing.assert_close(preference_loss(scores, chosen), expected)


def test_a_ranking_gives_imagerewards_loss() -> None:
    scores = torch.tensor([[2.0, -1.0, 0.5]])
    chosen = torch.tensor([[[0.0, 1, 1], [0, 0, 0], [0, 1, 0]]])  # first, third, second
    pairs = torch.tensor([3.0, 1.5, 1.5])
    torch.testing.assert_close(preference_loss(scores, chosen), -F.logsigmoid(pairs).mean())


def test_the_divergence_from_shared_choices_is_zero_where_the_model_agrees() -> None:
    scores = torch.tensor([[0.3, -0.4, 1.0]])
    share = torch.sigmoid(scores[:, :, None] - scores[:, None, :])
    assert preference_loss(scores, share).abs() < 1e-6
    assert preference_loss(scores + torch.tensor([0.5, 0, 0]), share) > 1e-3


def test_choices_follow_the_utility() -> None:
    merits = np.full((2000, 2, len(MERITS)), 0.5, np.float32)
    merits[:, 1] = 0.8
    one, many = (choices(np.random.default_rng(0), PICKSCORE, merits, raters=n) for n in (1, 3))
    assert set(one.unique().tolist()) == {0.0, 1.0}
    assert len(many.unique()) == 4
    assert (one + one.transpose(1, 2) + torch.eye(2) == 1).all()
    assert one[:, 1, 0].mean().item() > 0.9
    assert one[:, 1, 0].mean().item() == pytest.approx(many[:, 1, 0].mean().item(), abs=0.03)


def test_rewards_are_standardised_by_the_last_layer() -> None:
    torch.manual_seed(0)
    model = ImageRewardNetwork(blip_text(50), BLIP_VISION).eval()
    pixels = torch.randn(12, 3, 64, 64)
    ids = torch.randint(5, 50, (12, 10))
    mask = torch.ones_like(ids)
    with torch.no_grad():
        standardise(model, model.logits(pixels, ids, mask))
        rewards = model.logits(pixels, ids, mask)
    assert rewards.mean().item() == pytest.approx(MEAN, abs=1e-3)
    assert rewards.std().item() == pytest.approx(STD, rel=1e-2)
