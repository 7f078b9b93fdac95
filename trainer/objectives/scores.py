"""Objectives on the scores themselves: RWR, Diffusion LAIR and the offline form of DiffusionNFT.

Each has a function that turns the scores of all rows into one number per row before training,
and a loss, which uses it. Scores are taken in units of their standard deviation, so that settings
carry over between reward models. Tensors float32 ``[B]``, score arrays float64 ``[N]``.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from tgo.pipeline.errors import InputError


def standardised(scores: np.ndarray) -> np.ndarray:
    """Scores less their mean, over their standard deviation (all 0 where they are all equal)."""
    spread = scores.std()
    return (scores - scores.mean()) / (spread if spread > 0 else 1.0)


def advantages(scores: np.ndarray, prompts: np.ndarray) -> np.ndarray:
    """Scores less the mean of their prompt's, over the standard deviation of all scores.

    Raises InputError where every prompt has a single image, which leaves nothing to compare.
    """
    _, which, count = np.unique(prompts, return_inverse=True, return_counts=True)
    if count.size and count.max() < 2:
        raise InputError(
            "train.objective: needs several usable images of a prompt to compare; raise "
            "score.images_per_prompt, or choose an objective that takes labels"
        )
    mean = np.bincount(which, scores) / count
    spread = scores.std()
    return (scores - mean[which]) / (spread if spread > 0 else 1.0)


def rwr_weights(scores: np.ndarray, *, beta: float) -> np.ndarray:
    """``exp(z / beta)`` over its mean, z standardised: from 0 to N, of mean 1, whatever beta."""
    exponent = standardised(scores) / beta
    powers = np.exp(exponent - exponent.max())
    return powers / powers.mean()


def rwr(log_likelihood: Tensor, weight: Tensor, *, temperature: float) -> Tensor:
    """Reward-weighted regression (Peters and Schaal 2007; arXiv:2302.12192): ``weight * mse``.

    ``mse = -T log pi``, ``weight`` from ``rwr_weights``. Its optimum is the reference tilted by
    ``exp(z / beta)``, as far as the model can follow.
    """
    return weight * -temperature * log_likelihood


def lair(log_ratio: Tensor, advantage: Tensor, *, beta: Tensor | float, penalty: float) -> Tensor:
    """Diffusion LAIR (arXiv:2605.26491): ``-A rhat + (penalty / 2) rhat^2``.

    Least squares in disguise: bounded below, with its optimum at ``rhat = A / penalty``. The form
    is inferred from the paper's abstract; ``A`` are ``advantages``.
    """
    reward = beta * log_ratio
    return -advantage * reward + 0.5 * penalty * reward.square()


def optimality(scores: np.ndarray, prompts: np.ndarray, *, clip: float) -> np.ndarray:
    """DiffusionNFT's r in [0, 1]: ``0.5 + 0.5 * clamp(A / clip, -1, 1)``, A the advantages."""
    return 0.5 + 0.5 * np.clip(advantages(scores, prompts) / clip, -1, 1)


def nft(
    log_likelihood: Tensor,
    reference: Tensor,
    prediction_distance: Tensor,
    optimality: Tensor,
    *,
    mix: float,
    temperature: float,
) -> Tensor:
    """DiffusionNFT (arXiv:2509.16117, eq. 5), offline: the old policy is the reference.

    ``r |v+ - v|^2 + (1 - r) |v- - v|^2`` with ``v+- = (1 -+ b) v_old +- b v_theta``, b = ``mix``,
    means over a sample. With errors ``e = v_theta - v``, ``o = v_old - v``:
    ``|v+ - v|^2 = |(1 - b) o + b e|^2``, ``|v- - v|^2 = |(1 + b) o - b e|^2`` and
    ``2 <o, e> = |o|^2 + |e|^2 - |e - o|^2``, so the three numbers of each sample suffice. The
    public code also divides each term by its own absolute error; the paper's equation does not.
    """
    error, old, distance = (
        temperature * part for part in (-log_likelihood, -reference, prediction_distance)
    )
    cross = error + old - distance  # twice the inner product
    positive = (1 - mix) ** 2 * old + mix**2 * error + (1 - mix) * mix * cross
    negative = (1 + mix) ** 2 * old + mix**2 * error - (1 + mix) * mix * cross
    return optimality * positive + (1 - optimality) * negative
