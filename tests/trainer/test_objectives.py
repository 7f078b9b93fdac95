from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipeline.errors import InputError
from tests.trainer.miniature import make_settings
from trainer.objectives import OBJECTIVES, Terms, load_objective, sft, tgo

EXTREMES = [-1e4, -1e3, -100.0, -28.0, -17.0, -1.0, 0.0, 1.0, 17.0, 28.0, 100.0, 1e3, 1e4]


def full(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


def exact_tgo(reward: float, label: float, weight: float) -> float:
    """The paper's formula in float64, with softplus written so that it cannot overflow."""

    def softplus(x: float) -> float:
        return float(np.logaddexp(0.0, x))

    return weight * (label * softplus(-reward) + (1 - label) * softplus(reward))


def exact_sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def test_tgo_at_the_start_is_log_two_times_the_weight() -> None:
    loss = tgo(full(0, 0, 0), full(0, 1, 0.5), full(1, 2, 3), beta=7.0)
    torch.testing.assert_close(loss, full(1, 2, 3) * math.log(2))


@pytest.mark.parametrize("label", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("reward", EXTREMES)
def test_tgo_is_exact_and_keeps_its_gradient_at_the_extremes(reward: float, label: float) -> None:
    beta, weight = 2.0, 3.0
    ratio = full(reward / beta).requires_grad_()
    loss = tgo(ratio, full(label), full(weight), beta=beta)
    loss.sum().backward()
    assert loss.item() == pytest.approx(exact_tgo(reward, label, weight), rel=1e-5, abs=1e-30)
    assert ratio.grad is not None
    slope = weight * beta * (exact_sigmoid(reward) - label)
    assert ratio.grad.item() == pytest.approx(slope, rel=1e-5, abs=1e-6)


@given(
    reward=st.floats(-1e4, 1e4, width=32),
    label=st.floats(0, 1, width=32),
    weight=st.floats(0, 64, width=32),
)
def test_laws_of_tgo(reward: float, label: float, weight: float) -> None:
    def loss(reward: float, label: float, weight: float) -> float:
        return tgo(full(reward), full(label), full(weight), beta=1.0).item()

    value = loss(reward, label, weight)
    assert math.isfinite(value)
    assert value >= 0
    # swapping the labels mirrors the reward; the loss is linear in weight and in label
    assert value == pytest.approx(loss(-reward, 1 - label, weight), rel=1e-4, abs=1e-4)
    assert loss(reward, label, 2 * weight) == pytest.approx(2 * value, rel=1e-6)
    ends = (1 - label) * loss(reward, 0, weight) + label * loss(reward, 1, weight)
    assert value == pytest.approx(ends, rel=1e-4, abs=1e-4)


@given(label=st.floats(0.01, 0.99))
def test_a_soft_label_has_its_optimum_at_the_logit(label: float) -> None:
    optimum = math.log(label / (1 - label))
    ratio = full(optimum / 0.5).requires_grad_()
    tgo(ratio, full(label), full(1), beta=0.5).sum().backward()
    assert ratio.grad is not None
    assert abs(ratio.grad.item()) < 1e-6


def test_samples_do_not_influence_each_other() -> None:
    ratio, label, weight = torch.randn(5), torch.rand(5), torch.rand(5)
    together = tgo(ratio, label, weight, beta=1.5)
    alone = [tgo(*(x[i : i + 1] for x in (ratio, label, weight)), beta=1.5) for i in range(5)]
    torch.testing.assert_close(together, torch.cat(alone))


def test_sft_is_the_mean_squared_error() -> None:
    error = full(0.0, 0.25, 3.0)
    torch.testing.assert_close(sft(-error / 1e-3, temperature=1e-3), error)


def test_the_registered_objectives_use_the_settings() -> None:
    train = make_settings(Path("model"), beta=2.0, temperature=0.5).train
    terms = Terms(full(-1, -2), full(-2, -2), full(1, 0), full(3, 4))
    torch.testing.assert_close(
        OBJECTIVES["tgo"].loss(terms, train), tgo(full(1, 0), full(1, 0), full(3, 4), beta=2.0)
    )
    torch.testing.assert_close(OBJECTIVES["sft"].loss(terms, train), full(0.5, 1.0))
    with pytest.raises(ValueError, match="no reference"):
        OBJECTIVES["tgo"].loss(terms._replace(reference=None), train)


def test_an_unknown_objective_is_named() -> None:
    with pytest.raises(InputError, match=r"train\.objective: unknown objective 'tog'; .*tgo, sft"):
        load_objective("tog")
