"""What a run tells of itself: statistics gathered on the device, read once per log line.

A line of ``train_log.jsonl`` holds means since the line before it and has the same bytes in
every run of the same settings; what depends on the clock goes to ``train_timing.jsonl``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tgo.pipeline.errors import InputError
from tgo.trainer.distributed import Ranks

if TYPE_CHECKING:
    from tgo.trainer.objectives import Outcome, Terms

Sums = dict[str, float]


SATURATED = 0.02
"""A sample is saturated when the factor ``sigmoid(-|logit|)`` of its gradient is below this."""


class DivergedError(InputError):
    """Loss or gradient was NaN or infinite: what followed is of no use."""


class Statistics:
    """Sums over steps, kept on the device: adding to them never waits for it."""

    NAMES = (
        "steps",
        "loss",
        "grad_norm",
        "positives",
        "log_likelihood_positive",
        # of samples with a reference
        "compared_positive",
        "compared_negative",
        "log_ratio_positive",
        "log_ratio_negative",
        "reward_positive",
        "reward_negative",
        "reference_positive",
        "beta",
        # of samples of which the predictions were compared
        "prediction_distances",
        "kl",
        # of samples or pairs on which a side can be told, and of those with a sigmoid
        "sides",
        "accuracy",
        "logits",
        "grad_factor",
        "saturation",
    )

    PER_STEP = ("steps", "loss", "grad_norm", "beta")
    """Those that every process has in full; of the others each has its share."""

    def __init__(self, device: torch.device, ranks: Ranks | None = None) -> None:
        self._device = device
        self._ranks = ranks or Ranks(device)
        self._sums = torch.zeros(len(self.NAMES), device=device)
        self._first_bad = torch.full((), -1, dtype=torch.int64, device=device)
        self._bad_values = torch.zeros(2, device=device)

    @torch.no_grad()
    def add(self, step: int, terms: Terms, outcome: Outcome, grad_norm: Tensor) -> None:
        """Take in one step: its terms, what came of them, the gradient norm before clipping."""
        loss, target = outcome.loss.mean(), terms.target
        found: dict[str, Tensor | float] = {
            "steps": 1,
            "loss": loss,
            "grad_norm": grad_norm,
            "positives": target.sum(),
            "log_likelihood_positive": (terms.log_likelihood * target).sum(),
        }
        if terms.reference is not None:
            found |= _compared(terms, outcome.beta)
        if terms.prediction_distance is not None:
            found |= {"prediction_distances": len(target), "kl": terms.prediction_distance.sum()}
        found |= _sides(terms, outcome)
        self._sums += torch.stack([self._scalar(found.get(name, 0.0)) for name in self.NAMES])
        bad = ~(loss.isfinite() & grad_norm.isfinite()) & (self._first_bad < 0)
        self._first_bad = torch.where(bad, step, self._first_bad)
        values = torch.stack([loss.detach().float(), grad_norm.detach().float()])
        self._bad_values = torch.where(bad, values, self._bad_values)

    def _scalar(self, value: Tensor | float) -> Tensor:
        """A number on the device; one from the host is filled in there, not copied and awaited."""
        if isinstance(value, Tensor):
            return value.float()
        return torch.full((), float(value), device=self._device)

    def read(self) -> Sums:
        """The sums so far of all processes, each of which must ask (this waits for the device).

        Raises DivergedError if loss or gradient of a step was NaN or infinite.
        """
        first_bad = self._ranks.max(int(self._first_bad))
        if first_bad >= 0:
            loss, norm = self._bad_values.tolist()
            raise DivergedError(
                f"train: diverged at step {first_bad}: the loss was {loss:g} and the gradient norm "
                f"{norm:g}; lower train.learning_rate (or train.beta)"
            )
        values = dict(zip(self.NAMES, self._ranks.sum(self._sums).tolist(), strict=True))
        return values | {name: values[name] / self._ranks.size for name in self.PER_STEP}

    def reset(self, values: Sequence[float] | None = None) -> None:
        """Begin again from zero, or from ``values`` as ``read`` gave them."""
        self._sums.zero_()
        if values is not None:
            given = dict(zip(self.NAMES, values, strict=True))
            shares = {name: value / self._ranks.size for name, value in given.items()}
            kept = shares | {name: given[name] for name in self.PER_STEP}
            self._sums.copy_(torch.tensor([kept[name] for name in self.NAMES]))


def _compared(terms: Terms, beta: Tensor | float) -> dict[str, Tensor | float]:
    """Sums of what policy and reference say of the same samples."""
    target, ratio, reference = terms.target, terms.log_ratio, terms.require("reference")
    reward = beta * ratio
    return {
        "compared_positive": target.sum(),
        "compared_negative": (1 - target).sum(),
        "log_ratio_positive": (ratio * target).sum(),
        "log_ratio_negative": (ratio * (1 - target)).sum(),
        "reward_positive": (reward * target).sum(),
        "reward_negative": (reward * (1 - target)).sum(),
        "reference_positive": (reference * target).sum(),
        "beta": beta,
    }


def _sides(terms: Terms, outcome: Outcome) -> dict[str, Tensor | float]:
    """On which side of the sigmoid samples lie; without one, the sign of the log-ratio tells."""
    logit, target = outcome.logit, outcome.target
    if logit is None or target is None:
        if terms.reference is None:
            return {}
        return {"sides": len(terms.target), "accuracy": _right(terms.log_ratio, terms.target)}
    return {
        "sides": len(logit),
        "accuracy": _right(logit, target),
        "logits": len(logit),
        "grad_factor": (target - torch.sigmoid(logit)).abs().sum(),
        "saturation": (torch.sigmoid(-logit.abs()) < SATURATED).sum(),
    }


def _right(value: Tensor, target: Tensor) -> Tensor:
    """How many values have the sign of their target; 0 lies on neither side: a half."""
    return ((1 + (value * (2 * target - 1)).sign()) / 2).sum()


def summary(sums: Sums) -> dict[str, float | None]:
    """What a log line says of the steps in ``sums`` (keys as in docs/training.md).

    loss, grad_norm: means over steps; log_likelihood_positive: over positives. With a reference
    also the mean log-ratio of positives and of negatives, their implicit rewards' difference
    (``margin``), ``likelihood_change``, the positives' log-ratio relative to their log-likelihood
    before, and ``beta``. With comparable predictions ``kl``, the mean of
    ``Terms.prediction_distance``, and ``kl_to_margin``. With a sigmoid ``grad_factor``, the mean
    of ``|target - sigmoid(logit)|``, and ``saturation``. None where a class had no sample.
    """
    means: dict[str, float | None] = {
        key: sums[key] / sums["steps"] for key in ("loss", "grad_norm")
    }
    positive = sums["positives"]
    means["log_likelihood_positive"] = _ratio(sums["log_likelihood_positive"], positive)
    if sums["compared_positive"] + sums["compared_negative"]:
        means |= _comparison(sums)
    if sums["sides"]:
        means["accuracy"] = sums["accuracy"] / sums["sides"]
    if sums["logits"]:
        means |= {key: sums[key] / sums["logits"] for key in ("grad_factor", "saturation")}
    return means


def _comparison(sums: Sums) -> dict[str, float | None]:
    positives, negatives = sums["compared_positive"], sums["compared_negative"]
    beta = sums["beta"] / sums["steps"]
    rewards = (
        _ratio(sums["reward_positive"], positives),
        _ratio(sums["reward_negative"], negatives),
    )
    margin = None if rewards[0] is None or rewards[1] is None else rewards[0] - rewards[1]
    kl = _ratio(sums["kl"], sums["prediction_distances"])
    return {
        "beta": beta,
        "margin": margin,
        "log_ratio_positive": _ratio(sums["log_ratio_positive"], positives),
        "log_ratio_negative": _ratio(sums["log_ratio_negative"], negatives),
        "likelihood_change": _ratio(sums["log_ratio_positive"], abs(sums["reference_positive"])),
        "kl": kl,
        "kl_to_margin": None if kl is None or not margin else 2 * beta * kl / abs(margin),
    }


def _ratio(total: float, count: float) -> float | None:
    return total / count if count else None
