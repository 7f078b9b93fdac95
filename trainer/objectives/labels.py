"""Objectives on labelled samples: TGO, BCO, Diffusion-KTO and supervised fine-tuning.

All tensors float32 ``[B]``. ``rhat = beta * log_ratio`` is the implicit reward.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def tgo(
    log_ratio: Tensor,
    target: Tensor,
    weight: Tensor,
    *,
    beta: Tensor | float,
    shift: Tensor | float = 0.0,
) -> Tensor:
    """Threshold-Guided Optimization (arXiv:2605.04653): weighted binary cross-entropy on rhat.

    ``loss = -w * [ l * logsigmoid(rhat - shift) + (1 - l) * logsigmoid(shift - rhat) ]``, so that
    ``d loss / d rhat = w * (sigmoid(rhat - shift) - l)``: bounded by the weight, and never
    vanishing on the wrong side. ``target`` may be soft (then rhat has a finite optimum,
    ``logit(target) + shift``; with hard labels it has none). The paper has no shift. Written with
    ``logsigmoid``, because ``log(sigmoid(.) + eps)`` overflows or loses its gradient in float32.
    """
    reward = beta * log_ratio - shift
    return -weight * (target * logsigmoid(reward) + (1 - target) * logsigmoid(-reward))


def bco(
    log_ratio: Tensor, target: Tensor, *, beta: Tensor | float, shift: Tensor | float
) -> Tensor:
    """Binary Classifier Optimization (arXiv:2404.04656, eq. 12): TGO without weights, shifted.

    ``-logsigmoid(rhat - delta)`` for desirable samples and ``-logsigmoid(-(rhat - delta))`` for
    the others; delta is the running mean of rhat (see ``running_mean``).
    """
    return tgo(log_ratio, target, torch.ones_like(target), beta=beta, shift=shift)


def kto(
    log_ratio: Tensor, target: Tensor, *, beta: Tensor | float, divergence: Tensor | float
) -> Tensor:
    """Diffusion-KTO (arXiv:2404.04465, eq. 8, sigmoid utility): ``1 - sigmoid(+-(rhat - z0))``.

    ``z0 = beta * divergence`` with ``divergence`` from ``divergence``, without gradient. Desirable
    and undesirable samples count alike. Unlike the cross-entropy of TGO this has no gradient
    left once a sample is far on the wrong side. ``target`` in [0, 1]; the sign is ``2 l - 1``.
    """
    return torch.sigmoid(-(2 * target - 1) * beta * (log_ratio - divergence))


@torch.no_grad()
def divergence(mean_log_ratio: Tensor) -> Tensor:
    """KTO's estimate of ``KL(pi_theta || pi_ref)``: the batch's mean log-ratio, at least 0."""
    return mean_log_ratio.clamp(min=0)


@torch.no_grad()
def running_mean(mean: Tensor, new: Tensor, *, decay: float) -> Tensor:
    """``decay * mean + (1 - decay) * new``, scalars: the shift after one more batch.

    It begins at 0, which is what rhat is before the first step, so it needs no correction.
    """
    return decay * mean + (1 - decay) * new


def sft(log_likelihood: Tensor, *, temperature: float) -> Tensor:
    """Supervised fine-tuning: ``-T * log pi_theta`` ``[B]``, meant for the positives alone.

    With ``log pi_theta = -MSE / T`` this is the mean squared error itself. Conditional supervised
    fine-tuning (CSFT; arXiv:2303.14420, sec. 4.2) is the same loss on all samples, where the
    prompts of negatives begin with a phrase for bad images.
    """
    return -temperature * log_likelihood
