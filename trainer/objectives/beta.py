"""Beta, the pull to the reference: a number, or one that finds itself.

What beta does to learning is set by how far ``rhat = beta * log_ratio`` has run into the flat of
the sigmoid: a sample's gradient carries the factor ``sigmoid(-|logit|)``, one half at the start
and zero once saturated. ``beta: auto`` holds its mean near a target (0.2), as a public Flow-DPO
trainer does, by one multiplicative move a step:

    log beta <- clamp(log beta + rate * (mean sigmoid(-|logit|) - target))

All of it stays on the device. The state is ``log_beta`` alone and is part of a checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tgo.pipeline.config.train_settings import AutoBeta

State = dict[str, Tensor]
"""What an objective carries from step to step: float32 scalars on the device."""

RANGE = 1e3
"""An automatic beta stays within its start divided and multiplied by this."""


@dataclass(frozen=True)
class Beta:
    """A fixed ``value``, or the start of an automatic one where ``auto`` says how it moves."""

    value: float
    auto: AutoBeta | None = None

    @property
    def start(self) -> dict[str, float]:
        """Its state before the first step: empty for a fixed beta."""
        return {} if self.auto is None else {"log_beta": math.log(self.value)}

    def now(self, state: State) -> Tensor | float:
        """Beta of this step."""
        return self.value if self.auto is None else state["log_beta"].exp()

    @torch.no_grad()
    def next(self, state: State, logit: Tensor, average: Callable[[Tensor], Tensor]) -> State:
        """The state with beta moved by the ``logit`` ``[N]`` it led to.

        ``average`` takes the mean over the whole batch (see ``Terms.average``).
        """
        if self.auto is None:
            return state
        factor = average(torch.sigmoid(-logit.abs()))
        moved = state["log_beta"] + self.auto.rate * (factor - self.auto.factor)
        start, reach = math.log(self.value), math.log(RANGE)
        return state | {"log_beta": moved.clamp(start - reach, start + reach)}
