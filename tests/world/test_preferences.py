"""Preference losses, choices of raters, and the standardisation of rewards."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tgo.data.world.preferences import choices, judged_loss, preference_loss, standardise
from tgo.data.world.raters import MERITS, POPULATIONS
from tgo.data.world.towers import BLIP_VISION, blip_text
from tgo.rewards.imagereward import MEAN, STD, ImageRewardNetwork

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


def test_choices_follow_the_feelings() -> None:
    felt = np.array([[[0.0, 1.0]], [[3.0, 2.0]], [[0.0, 5.0]], [[1.0, 2.0]]], np.float32)
    assert choices(felt[:1]).tolist() == [[[0, 0], [1, 0]]]
    assert choices(felt).tolist() == [[[0, 0.25], [0.75, 0]]]


def test_a_shift_between_prompts_is_punished() -> None:
    rng = np.random.default_rng(0)
    merits = rng.random((64, 4, len(MERITS))).astype(np.float32)
    right = torch.from_numpy(PICKSCORE.utility(merits))
    shifted = right + 5 * torch.randn(64, 1)
    seeds = (np.random.default_rng(1) for _ in range(2))
    good, bad = (judged_loss(next(seeds), PICKSCORE, s, merits) for s in (right, shifted))
    assert good < bad


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
