"""Objectives against their closed forms and against their published formulas, in float64."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from tests.trainer.miniature import make_settings
from tgo.pipeline.config.objectives import NEEDS
from tgo.pipeline.errors import InputError
from tgo.trainer.objectives import OBJECTIVES, Terms, labels, load_objective, pairs, scores
from tgo.trainer.objectives.base import Objective
from tgo.trainer.objectives.labels import bco, kto, sft, tgo

EXTREMES = [-1e4, -1e3, -100.0, -28.0, -17.0, -1.0, 0.0, 1.0, 17.0, 28.0, 100.0, 1e3, 1e4]
CPU = torch.device("cpu")
T = 1e-3


def full(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def make(name: str, **train: Any) -> Objective:
    return load_objective(make_settings(Path("model"), objective=name, **train).train)


def exact_sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def exact_tgo(reward: float, target: float, weight: float) -> float:
    """The paper's formula in float64, with softplus written so that it cannot overflow."""

    def softplus(x: float) -> float:
        return float(np.logaddexp(0.0, x))

    return weight * (target * softplus(-reward) + (1 - target) * softplus(reward))


# ---- TGO, BCO, KTO, SFT


def test_tgo_at_the_start_is_log_two_times_the_weight() -> None:
    loss = tgo(full(0, 0, 0), full(0, 1, 0.5), full(1, 2, 3), beta=7.0)
    torch.testing.assert_close(loss, full(1, 2, 3) * math.log(2))


@pytest.mark.parametrize("target", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("reward", EXTREMES)
def test_tgo_is_exact_and_keeps_its_gradient_at_the_extremes(reward: float, target: float) -> None:
    beta, weight = 2.0, 3.0
    ratio = full(reward / beta).requires_grad_()
    loss = tgo(ratio, full(target), full(weight), beta=beta)
    loss.sum().backward()
    assert loss.item() == pytest.approx(exact_tgo(reward, target, weight), rel=1e-5, abs=1e-30)
    assert ratio.grad is not None
    slope = weight * beta * (exact_sigmoid(reward) - target)
    assert ratio.grad.item() == pytest.approx(slope, rel=1e-5, abs=1e-6)


@given(
    reward=st.floats(-1e4, 1e4, width=32),
    target=st.floats(0, 1, width=32),
    weight=st.floats(0, 64, width=32),
)
@example(reward=-1e4, target=1.1764706e-08, weight=64.0)
def test_laws_of_tgo(reward: float, target: float, weight: float) -> None:
    def loss(reward: float, target: float, weight: float) -> float:
        return tgo(full(reward), full(target), full(weight), beta=1.0).item()

    value = loss(reward, target, weight)
    rounding = 1e-4 + 1e-7 * weight * abs(reward)  # of 1 - target in float32
    assert math.isfinite(value)
    assert value >= 0
    # swapping the labels mirrors the reward; the loss is linear in weight and in target
    assert value == pytest.approx(loss(-reward, 1 - target, weight), rel=1e-4, abs=rounding)
    assert loss(reward, target, 2 * weight) == pytest.approx(2 * value, rel=1e-6)
    ends = (1 - target) * loss(reward, 0, weight) + target * loss(reward, 1, weight)
    assert value == pytest.approx(ends, rel=1e-4, abs=rounding)


@given(target=st.floats(0.01, 0.99), shift=st.floats(-3, 3))
def test_a_soft_label_has_its_optimum_at_the_logit(target: float, shift: float) -> None:
    optimum = math.log(target / (1 - target)) + shift
    ratio = full(optimum / 0.5).requires_grad_()
    tgo(ratio, full(target), full(1), beta=0.5, shift=shift).sum().backward()
    assert ratio.grad is not None
    assert abs(ratio.grad.item()) < 1e-6


def test_samples_do_not_influence_each_other() -> None:
    ratio, target, weight = torch.randn(5), torch.rand(5), torch.rand(5)
    together = tgo(ratio, target, weight, beta=1.5)
    alone = [tgo(*(x[i : i + 1] for x in (ratio, target, weight)), beta=1.5) for i in range(5)]
    torch.testing.assert_close(together, torch.cat(alone))


def test_tgo_with_weight_one_and_the_shift_is_bco() -> None:
    ratio, target = torch.randn(32), torch.randint(0, 2, (32,)).float()
    shifted = tgo(ratio, target, torch.ones(32), beta=3.0, shift=0.7)
    assert torch.equal(shifted, bco(ratio, target, beta=3.0, shift=0.7))


def test_bco_is_its_published_formula() -> None:
    ratio, shift = drawn(16), 0.3
    desirable = np.arange(16) % 2 == 0
    logit = 2.0 * ratio - shift
    published = -np.log(exact_logistic(np.where(desirable, logit, -logit)))
    found = bco(torch.tensor(ratio), torch.tensor(desirable * 1.0), beta=2.0, shift=shift)
    np.testing.assert_allclose(found, published, rtol=1e-9)


def exact_logistic(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def test_kto_is_its_published_formula() -> None:
    ratio, target = drawn(16), np.arange(16) % 2
    z0 = max(ratio.mean(), 0.0)
    published = 1 - exact_logistic((2 * target - 1) * 1.5 * (ratio - z0))
    mean = labels.divergence(torch.tensor(ratio.mean()))
    found = kto(torch.tensor(ratio), torch.tensor(target), beta=1.5, divergence=mean)
    np.testing.assert_allclose(found, published, rtol=1e-9)
    assert labels.divergence(full(-2.0)) == 0


def test_kto_without_its_kl_term_is_one_minus_the_likelihood_that_tgo_takes_the_log_of() -> None:
    ratio, target = torch.randn(32, dtype=torch.float64), torch.randint(0, 2, (32,)).double()
    likelihood = torch.exp(-tgo(ratio, target, torch.ones_like(target), beta=2.0))
    found = kto(ratio, target, beta=2.0, divergence=0.0)
    torch.testing.assert_close(found, 1 - likelihood)


@pytest.mark.parametrize("reward", EXTREMES)
def test_kto_loses_its_gradient_where_tgo_keeps_it(reward: float) -> None:
    ratio = full(reward).requires_grad_()
    loss = kto(ratio, full(1), beta=1.0, divergence=0.0)
    loss.sum().backward()
    assert loss.item() == pytest.approx(exact_sigmoid(-reward), rel=1e-5, abs=1e-30)
    assert ratio.grad is not None
    slope = -exact_sigmoid(reward) * exact_sigmoid(-reward)
    assert ratio.grad.item() == pytest.approx(slope, rel=1e-5, abs=1e-7)


def test_sft_is_the_mean_squared_error() -> None:
    error = full(0.0, 0.25, 3.0)
    torch.testing.assert_close(sft(-error / 1e-3, temperature=1e-3), error)


# ---- pairs: from predictions, as the public code has them


class Predictions:
    """Random predictions of policy and reference for P pairs, and what our objectives take."""

    def __init__(self, count: int = 6) -> None:
        shape = (2 * count, 3, 4)
        self.target = torch.tensor(drawn(*shape, seed=1))
        self.policy = torch.tensor(drawn(*shape, seed=2)).requires_grad_()
        self.reference = torch.tensor(drawn(*shape, seed=3))

    @staticmethod
    def mse(left: Tensor, right: Tensor) -> Tensor:
        return (left - right).square().mean(dim=(1, 2))

    @property
    def terms(self) -> tuple[Tensor, Tensor, Tensor]:
        """Log-likelihood, reference, prediction_distance."""
        return (
            -self.mse(self.policy, self.target) / T,
            -self.mse(self.reference, self.target) / T,
            self.mse(self.policy, self.reference) / T,
        )

    def gradient(self, loss: Tensor) -> Tensor:
        (found,) = torch.autograd.grad(loss.sum(), self.policy)
        return found


def same_with_gradient(made: Predictions, ours: Tensor, published: Tensor) -> None:
    torch.testing.assert_close(ours, published)
    torch.testing.assert_close(made.gradient(ours), made.gradient(published))


def test_dpo_is_its_published_formula() -> None:
    made, beta = Predictions(), 5.0
    policy, reference, _ = made.terms
    errors = made.mse(made.policy, made.target), made.mse(made.reference, made.target)
    gaps = [error[0::2] - error[1::2] for error in errors]
    published = -torch.log(torch.sigmoid(-0.5 * beta * (gaps[0] - gaps[1])))
    same_with_gradient(made, pairs.dpo(policy - reference, beta=0.5 * beta * T), published)


def test_dspo_is_the_formula_of_its_public_code() -> None:
    made, beta = Predictions(), 0.8
    errors = made.mse(made.policy, made.target), made.mse(made.reference, made.target)
    inside = -0.5 * beta * ((errors[0] - errors[1])[0::2] - (errors[0] - errors[1])[1::2])
    pull = beta * (1 - torch.sigmoid(inside))[:, None, None]
    winner = made.policy[0::2] - made.target[0::2]
    apart = made.policy[0::2] - made.reference[0::2]
    published = (winner - pull * apart).square().mean(dim=(1, 2))
    same_with_gradient(made, pairs.dspo(*made.terms, beta=beta, temperature=T), published)


def test_mapo_is_the_formula_of_its_public_code() -> None:
    made, snr, steps, beta = Predictions(), 0.5, 1000.0, 0.1
    error = made.mse(made.policy, made.target)

    def score(x: Tensor) -> Tensor:
        return (snr * x) / (torch.exp(snr * x) - 1)

    odds = score(error[0::2]) - score(error[1::2])
    # the sigmoid saturates at these random errors, so its logarithm is taken exactly
    published = error[0::2] - beta * torch.nn.functional.logsigmoid(steps * odds)
    ours = pairs.mapo(made.terms[0], beta=beta, scale=snr, steps=steps, temperature=T)
    same_with_gradient(made, ours, published)


def test_a_pair_of_equals_costs_log_two() -> None:
    log_ratio = full(3, 3)
    torch.testing.assert_close(pairs.dpo(log_ratio, beta=2.0), full(math.log(2)))
    loss = pairs.mapo(full(-50, -50), beta=1.0, scale=0.5, steps=1000.0, temperature=T)
    torch.testing.assert_close(loss, full(0.05 + math.log(2)))


@pytest.mark.parametrize("reward", EXTREMES)
def test_pairs_are_finite_at_the_extremes(reward: float) -> None:
    ratio = full(reward, 0).requires_grad_()
    loss = pairs.dpo(ratio, beta=1.0)
    loss.sum().backward()
    assert loss.item() == pytest.approx(np.logaddexp(0, -reward), rel=1e-5, abs=1e-30)
    assert ratio.grad is not None
    assert ratio.grad[0].item() == pytest.approx(-exact_sigmoid(-reward), rel=1e-5, abs=1e-30)
    likelihood = full(-abs(reward), -1.0).requires_grad_()
    loss = pairs.mapo(likelihood, beta=0.1, scale=0.5, steps=1000.0, temperature=1.0)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert likelihood.grad is not None
    assert likelihood.grad.isfinite().all()
    loss = pairs.dspo(full(-1e4, reward), full(-1, -1), full(1, 1), beta=5.0, temperature=1.0)
    assert loss.isfinite().all()


# ---- scores


def test_nft_is_its_published_formula() -> None:
    made, mix = Predictions(), 0.3
    r = torch.rand(12, dtype=torch.float64)
    positive = (1 - mix) * made.reference + mix * made.policy
    negative = (1 + mix) * made.reference - mix * made.policy
    published = r * made.mse(positive, made.target) + (1 - r) * made.mse(negative, made.target)
    same_with_gradient(made, scores.nft(*made.terms, r, mix=mix, temperature=T), published)


def test_nft_with_full_mix_and_r_one_is_sft() -> None:
    made = Predictions()
    ours = scores.nft(*made.terms, torch.ones(12), mix=1.0, temperature=T)
    torch.testing.assert_close(ours, sft(made.terms[0], temperature=T))


def test_rwr_is_its_published_formula() -> None:
    found, beta = 3 + 2 * drawn(9), 0.5
    z = (found - found.mean()) / found.std()
    weights = scores.rwr_weights(found, beta=beta)
    np.testing.assert_allclose(weights, np.exp(z / beta) / np.exp(z / beta).mean())
    error = torch.rand(9, dtype=torch.float64)
    ours = scores.rwr(-error / T, torch.tensor(weights), temperature=T)
    torch.testing.assert_close(ours, torch.tensor(weights) * error)


def test_rwr_with_equal_scores_or_no_temperature_has_its_limits() -> None:
    np.testing.assert_array_equal(scores.rwr_weights(np.full(4, 2.0), beta=0.1), np.ones(4))
    np.testing.assert_allclose(scores.rwr_weights(drawn(5), beta=1e9), np.ones(5), rtol=1e-6)
    sharp = scores.rwr_weights(drawn(50), beta=1e-6)  # all weight is on the best sample
    assert sharp.max() == 50
    assert np.count_nonzero(sharp) == 1


@pytest.mark.parametrize("reward", EXTREMES)
def test_lair_is_a_square_around_the_advantage(reward: float) -> None:
    ratio, penalty, advantage = full(reward / 2).requires_grad_(), 0.5, 1.5
    loss = scores.lair(ratio, full(advantage), beta=2.0, penalty=penalty)
    loss.sum().backward()
    closed = 0.5 * penalty * (reward - advantage / penalty) ** 2 - advantage**2 / (2 * penalty)
    assert loss.item() == pytest.approx(closed, rel=1e-5, abs=1e-5)
    assert ratio.grad is not None
    assert ratio.grad.item() == pytest.approx(2 * (penalty * reward - advantage), rel=1e-5)


def test_advantages_are_centred_in_each_prompt() -> None:
    found, prompts = drawn(12), np.repeat([7, 3, 5], 4)
    made = scores.advantages(found, prompts)
    expected = np.concatenate([part - part.mean() for part in found.reshape(3, 4)]) / found.std()
    np.testing.assert_allclose(made, expected)
    assert np.array_equal(scores.advantages(np.ones(4), np.zeros(4)), np.zeros(4))
    with pytest.raises(InputError, match="several usable images of a prompt"):
        scores.advantages(found, np.arange(12))
    r = scores.optimality(found, prompts, clip=0.5)
    np.testing.assert_allclose(r, 0.5 + 0.5 * np.clip(expected / 0.5, -1, 1))


# ---- objectives as the loop sees them


def terms(count: int = 4) -> Terms:
    policy = torch.tensor(drawn(count, seed=4), dtype=torch.float32) - 3
    target = torch.tensor([1.0, 0.0] * (count // 2))
    return Terms(
        policy, full(*[-3.0] * count), target, torch.ones(count), torch.rand(count), target
    )


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_is_made_from_the_settings(name: str) -> None:
    objective = make(name, temperature=0.5, beta=2.0)
    given = terms()
    if not objective.needs_reference:
        given = given._replace(reference=None, prediction_distance=None)
    state = objective.start(CPU)
    outcome = objective.loss(given, state)
    assert outcome.loss.shape == (2 if objective.pairs else 4,)
    assert outcome.loss.isfinite().all()
    assert outcome.state.keys() == state.keys()
    if outcome.logit is not None:
        assert outcome.target is not None
        assert outcome.logit.shape == outcome.target.shape == outcome.loss.shape
        assert not outcome.logit.requires_grad
    if objective.needs_reference:
        with pytest.raises(ValueError, match="no reference"):
            objective.loss(given._replace(reference=None), state)


def test_the_running_shift_follows_rhat() -> None:
    objective = make("bco", beta=2.0)
    given, state, shift = terms(), objective.start(CPU), 0.0
    mean = 2.0 * given.log_ratio.mean().item()
    for _ in range(3):
        outcome = objective.loss(given, state)
        state, shift = outcome.state, 0.9 * shift + 0.1 * mean
        assert state["shift"].item() == pytest.approx(shift, rel=1e-5)
        expected = bco(given.log_ratio, given.target, beta=2.0, shift=shift)
        torch.testing.assert_close(outcome.loss, expected)


def test_tgo_with_a_shift_decay_is_bco_where_weights_are_one() -> None:
    from tests.trainer.miniature import OBJECTIVES as OWN

    shifted = make("tgo", objectives=OWN | {"tgo": {"shift_decay": 0.9}})
    plain, given = make("bco"), terms()
    left, right = (o.loss(given, o.start(CPU)) for o in (shifted, plain))
    assert torch.equal(left.loss, right.loss)
    assert left.state == right.state


@pytest.mark.parametrize("spread", [1e-3, 1.0, 1e2])
def test_an_automatic_beta_holds_the_gradient_factor(spread: float) -> None:
    """Whatever the scale of the log-ratios, beta ends where the factor is the wanted one."""
    objective = make("tgo", beta="auto")
    ratio = torch.tensor(drawn(512, seed=5), dtype=torch.float32) * spread
    target = torch.ones(512)
    given = Terms(ratio, torch.zeros(512), target, target)
    state = objective.start(CPU)
    for _ in range(1500):
        state = objective.loss(given, state).state
    outcome = objective.loss(given, state)
    assert outcome.logit is not None
    if spread > 1e-3:
        factor = torch.sigmoid(-outcome.logit.abs()).mean().item()
        assert factor == pytest.approx(0.2, abs=1e-3)
    else:  # nothing has been learnt yet: beta stops at the end of its range
        assert float(outcome.beta) == pytest.approx(1e3, rel=1e-4)


def test_settings_know_what_each_objective_needs() -> None:
    assert list(NEEDS) == list(OBJECTIVES)
    for name, needs in NEEDS.items():
        objective = make(name)
        assert objective.needs_reference == needs.reference, name
        assert objective.needs_prediction_distance == needs.predictions, name
        assert objective.pairs == (needs.rows == "pairs"), name
        assert (objective.rows == "positives") == (needs.rows == "positives"), name
        if needs.follows_beta:
            assert make(name, beta="auto").beta.auto is not None, name
