"""Objectives on pairs of one prompt's images, winner before loser.

Both images of a pair see the same timestep and noise. Tensors ``[B]`` hold winner and loser of
pair i at 2i and 2i + 1; losses are ``[B / 2]``. ``mse = -T * log pi`` is the mean squared error.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def split(values: Tensor) -> tuple[Tensor, Tensor]:
    """(winners, losers), ``[B / 2]`` each, of ``[B]``."""
    return values[0::2], values[1::2]


def margin(values: Tensor) -> Tensor:
    """Winner less loser, ``[B / 2]`` of ``[B]``."""
    winner, loser = split(values)
    return winner - loser


def dpo(log_ratio: Tensor, *, beta: Tensor | float) -> Tensor:
    """Diffusion-DPO (arXiv:2311.12908, eq. 14): ``-logsigmoid(rhat_w - rhat_l)``.

    The public code writes ``-0.5 beta_dpo [(mse_w - mse_l)_theta - (mse_w - mse_l)_ref]`` in the
    sigmoid, which is this with ``beta / T = 0.5 beta_dpo``: its 5000 is beta 2.5 at T = 1e-3.
    """
    return -logsigmoid(beta * margin(log_ratio))


def dspo(
    log_likelihood: Tensor,
    reference: Tensor,
    prediction_distance: Tensor,
    *,
    beta: float,
    temperature: float,
) -> Tensor:
    """DSPO (Zhu et al., ICLR 2025), as the public code has it for SD 1.5; ``[B / 2]``.

    ``mean [ (eps_theta - eps) - beta (1 - sigmoid(u)) (eps_theta - eps_ref) ]^2`` on the winner,
    ``u = -0.5 beta [(mse_w - mse_l)_theta - (mse_w - mse_l)_ref]``: score matching to the data
    score plus the score of the preference. With ``k = beta (1 - sigmoid(u))`` that is
    ``mse - 2 k <e, d> + k^2 |d|^2``, and ``2 <e, d> = mse_theta + |d|^2 - mse_ref``, so the three
    numbers of each sample suffice: ``prediction_distance`` is ``|d|^2 / T``. As in that code the
    sigmoid is not cut off from the gradient, and the loser enters through it alone.
    """
    error, reference_error, distance = (
        temperature * part for part in (-log_likelihood, -reference, prediction_distance)
    )
    logit = dspo_logit(log_likelihood, reference, beta=beta, temperature=temperature)
    pull = beta * torch.sigmoid(-logit)
    winner, _ = split(error)
    winner_reference, _ = split(reference_error)
    apart, _ = split(distance)
    return winner - pull * (winner + apart - winner_reference) + pull.square() * apart


def dspo_logit(
    log_likelihood: Tensor, reference: Tensor, *, beta: float, temperature: float
) -> Tensor:
    """What DSPO feeds its sigmoid: ``0.5 beta T (log_ratio_w - log_ratio_l)``, ``[B / 2]``."""
    return 0.5 * beta * temperature * margin(log_likelihood - reference)


def mapo(
    log_likelihood: Tensor, *, beta: float, scale: float, steps: float, temperature: float
) -> Tensor:
    """MaPO (arXiv:2406.06424) as its public code has it: no reference; ``[B / 2]``.

    ``mse_w - beta * logsigmoid(steps * [h(scale mse_w) - h(scale mse_l)])``, where
    ``h(x) = x / (exp(x) - 1)`` and ``steps`` is the number of training timesteps (1000).
    """
    winner, _ = split(-temperature * log_likelihood)
    logit = mapo_logit(log_likelihood, scale=scale, steps=steps, temperature=temperature)
    return winner - beta * logsigmoid(logit)


def mapo_logit(log_likelihood: Tensor, *, scale: float, steps: float, temperature: float) -> Tensor:
    """What MaPO feeds its sigmoid, ``[B / 2]``; 0 and huge errors included."""
    return steps * margin(_decay(-scale * temperature * log_likelihood))


def _decay(x: Tensor) -> Tensor:
    """``x / (exp(x) - 1)`` for x >= 0: near 0 by its limit 1 - x / 2, and without overflow."""
    near = x.abs() < 1e-3
    safe = torch.where(near, 1.0, x)
    return torch.where(near, 1 - x / 2, -safe * torch.exp(-safe) / torch.expm1(-safe))
