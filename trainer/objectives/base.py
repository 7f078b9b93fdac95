"""What an objective is: what it is given of one batch, what it gives back, what it asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tgo.trainer.objectives.beta import Beta, State

PerRowValue = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(scores ``[N]``, prompt numbers ``[N]``) of all rows to a number for each, float64 ``[N]``."""
Rows = Literal["labelled", "positives", "all pairs", "extreme pairs"]
"""What a sample is: a labelled row, a row labelled positive, or a winner with its loser."""


class Terms(NamedTuple):
    """What an objective may use of one batch; every tensor is float32 ``[B]``.

    Where it asked for pairs, winner and loser of pair i are the samples 2i and 2i + 1.
    """

    log_likelihood: Tensor
    """``log pi_theta(x | c)`` (a diffusion family's surrogate: ``-MSE / T``)."""
    reference: Tensor | None
    """``log pi_ref(x | c)`` under the same corruption; None where the objective needs none."""
    target: Tensor
    """Target in [0, 1]: 0 or 1 as the labels have it, between them for a soft target."""
    weight: Tensor
    """Confidence weight, positive."""
    prediction_distance: Tensor | None = None
    """``mean (prediction_theta - prediction_ref)^2 / T``: the KL divergence of the two Gaussians
    of which ``-MSE / T`` is the log-likelihood. None where a family predicts no such thing."""
    per_row_value: Tensor | None = None
    """The objective's own number for each sample, made from all scores by its ``per_row_value``."""
    average: Callable[[Tensor], Tensor] = torch.mean
    """Mean over the whole batch, so over all processes where several share it."""

    @property
    def log_ratio(self) -> Tensor:
        """``log pi_theta - log pi_ref`` ``[B]``, without gradient into the reference."""
        return self.log_likelihood - self.require("reference")

    def require(self, name: str) -> Tensor:
        """The field ``name``, which the objective has asked for."""
        found = getattr(self, name)
        if found is None:
            raise ValueError(f"this objective asked for no {name}, so there is none")
        return found


class Outcome(NamedTuple):
    """What an objective makes of one batch."""

    loss: Tensor
    """Per sample ``[B]``, or per pair ``[B / 2]``; the loop takes its mean."""
    state: State
    """What the next step is given."""
    beta: Tensor | float = 1.0
    """What makes of a log-ratio the implicit reward ``rhat = beta * log_ratio``."""
    logit: Tensor | None = None
    """What the objective feeds its sigmoid, ``[B]`` or ``[B / 2]``; None if it has no sigmoid."""
    target: Tensor | None = None
    """In [0, 1], beside each logit: the side on which it belongs."""


@dataclass(frozen=True)
class Objective:
    """A loss, and what the loop has to provide for it."""

    loss: Callable[[Terms, State], Outcome]
    rows: Rows = "labelled"
    """What enters the stream."""
    needs_reference: bool = True
    """Whether the reference runs forward at all (a third of the step's work)."""
    needs_full_batch: bool = False
    """Whether a sample's loss depends on the others of its batch (through ``Terms.average``)."""
    needs_prediction_distance: bool = False
    """Whether the loss itself uses the distance of the two predictions."""
    per_row_value: PerRowValue | None = None
    """What ``Terms.per_row_value`` is made by, once for all rows; None if it is not used."""
    negative_prefix: str | None = None
    """Text put before the prompts of rows labelled 0; None leaves all prompts as they are."""
    beta: Beta = field(default_factory=lambda: Beta(1.0))
    """The pull to the reference; its state is part of the objective's."""
    state: Mapping[str, float] = field(default_factory=dict)
    """What the objective's own state is before the first step."""

    @property
    def pairs(self) -> bool:
        """Whether samples come as winner and loser."""
        return self.rows.endswith("pairs")

    def start(self, device: torch.device) -> State:
        """The state before the first step."""
        return self.state_from(dict(self.state) | self.beta.start, device)

    def state_from(self, values: Mapping[str, float], device: torch.device) -> State:
        """A state from plain numbers, as a checkpoint holds them."""
        return {name: torch.tensor(value, device=device) for name, value in values.items()}
