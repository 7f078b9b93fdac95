"""Training objectives: pure functions from a few tensors ``[B]`` to one loss per sample ``[B]``.

A family turns ``(network, codes, prompt, corruption)`` into a log-likelihood per sample; an
objective turns log-likelihoods, labels and weights into a loss and knows nothing of the family.
A new objective is one function here and one line in ``OBJECTIVES``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor
from torch.nn.functional import logsigmoid

from pipeline.errors import InputError

if TYPE_CHECKING:
    from pipeline.settings import Train


class Terms(NamedTuple):
    """What an objective may use of one batch; every tensor is float32 ``[B]``."""

    log_likelihood: Tensor
    """``log pi_theta(x | c)`` (a diffusion family's surrogate: ``-MSE / T``)."""
    reference: Tensor | None
    """``log pi_ref(x | c)`` under the same corruption; None where the objective needs none."""
    label: Tensor
    """Target in [0, 1]: 0 or 1 as the labels have it, between them for a soft target."""
    weight: Tensor
    """Confidence weight, positive."""

    @property
    def log_ratio(self) -> Tensor:
        """``log pi_theta - log pi_ref`` ``[B]``, without gradient into the reference."""
        if self.reference is None:
            raise ValueError("this objective asked for no reference, so there is no log-ratio")
        return self.log_likelihood - self.reference


def tgo(log_ratio: Tensor, label: Tensor, weight: Tensor, *, beta: float) -> Tensor:
    """Threshold-Guided Optimization (arXiv:2605.04653): weighted binary cross-entropy on rhat.

    ``rhat = beta * log_ratio`` and
    ``loss = -w * [ l * logsigmoid(rhat) + (1 - l) * logsigmoid(-rhat) ]``, so that
    ``d loss / d rhat = w * (sigmoid(rhat) - l)``: bounded by the weight, and never vanishing on
    the wrong side. All tensors ``[B]``; ``label`` may be soft (then rhat has a finite optimum,
    ``logit(label)``; with hard labels it has none). Written with ``logsigmoid``, because
    ``log(sigmoid(.) + eps)`` overflows or loses its gradient in float32.
    """
    reward = beta * log_ratio
    return -weight * (label * logsigmoid(reward) + (1 - label) * logsigmoid(-reward))


def sft(log_likelihood: Tensor, *, temperature: float) -> Tensor:
    """Supervised fine-tuning: ``-T * log pi_theta`` ``[B]``, meant for the positives alone.

    With ``log pi_theta = -MSE / T`` this is the mean squared error itself.
    """
    return -temperature * log_likelihood


@dataclass(frozen=True)
class Objective:
    """An objective and what the loop has to provide for it."""

    loss: Callable[[Terms, Train], Tensor]
    """Loss per sample ``[B]``; the loop takes its mean over the batch."""
    needs_reference: bool
    """Whether the reference runs forward at all (a third of the step's work)."""
    positives_only: bool
    """Whether only rows labelled positive enter the stream."""


OBJECTIVES: dict[str, Objective] = {
    "tgo": Objective(
        loss=lambda terms, train: tgo(terms.log_ratio, terms.label, terms.weight, beta=train.beta),
        needs_reference=True,
        positives_only=False,
    ),
    "sft": Objective(
        loss=lambda terms, train: sft(terms.log_likelihood, temperature=train.temperature),
        needs_reference=False,
        positives_only=True,
    ),
}


def load_objective(name: str) -> Objective:
    """Look an objective up by its name in ``train.objective``; InputError lists the known ones."""
    try:
        return OBJECTIVES[name]
    except KeyError:
        raise InputError(
            f"train.objective: unknown objective {name!r}; choose one of {', '.join(OBJECTIVES)}"
        ) from None
