"""Rows that are never trained on: what the policy has learnt that holds for other prompts, too.

A share of the prompts, chosen by a hash of their ids, is kept apart (``train.held_out``). With
every log line the same few of their images are judged under the same corruptions, so a line differs
from the one before by the policy alone. The reference's answers are computed once, before the first
step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tgo.pipeline.errors import InputError
from tgo.trainer.metrics import Statistics, summary
from tgo.trainer.noise import InputBuilder, NetworkInputs, NoiseSampler
from tgo.trainer.objectives import Terms
from tgo.trainer.stream import Batch, Stream

if TYPE_CHECKING:
    from tgo.pipeline.config.train_settings import Train
    from tgo.pipeline.generators.base import Family, LogLikelihood
    from tgo.trainer.dataset import LabelledRows
    from tgo.trainer.distributed import Ranks
    from tgo.trainer.learner import Learner
    from tgo.trainer.objectives import Objective

COST = 0.02
"""Of training's work that may be spent here, where a step's is four passes of its images."""
KEYS = ("loss", "margin", "accuracy")
"""What a log line says of held-out rows, each with ``held_out_`` before it. Beside them stands
``held_out_loss_change``, relative to the loss of the untrained model."""


def apart(rows: LabelledRows, train: Train) -> tuple[LabelledRows, LabelledRows | None]:
    """The rows to train on, and those that ``train.held_out`` keeps apart, if any.

    Args:
        rows: All labelled rows.
        train: The settings of the run.

    Returns:
        Both, numbered anew.

    Raises:
        InputError: the share is so small, or so large, that one of them is empty.
    """
    if train.held_out is None:
        return rows, None
    kept, held = rows.apart(train.held_out)
    if not sum(held.sizes) or not sum(kept.sizes):
        what = "no rows" if sum(kept.sizes) else "all rows"
        raise InputError(
            f"train.held_out: {train.held_out:g} of the prompts holds out {what}; choose another "
            "share, or null"
        )
    return kept, held


class HeldOut:
    """Judges the policy on held-out rows; make it before the policy differs from the reference.

    Every process must make and ask one: each computes its share.

    Args:
        rows: The held-out rows.
        family: The model.
        objective: What the loss is.
        train: The settings of the run.
        learner: Has the policy.
        ranks: This process among those of the run.
    """

    def __init__(
        self,
        rows: LabelledRows,
        family: Family,
        objective: Objective,
        train: Train,
        learner: Learner,
        ranks: Ranks,
    ) -> None:
        self._learner, self._ranks, unit = learner, ranks, rows.unit
        budget = int(4 * COST * train.batch_size * train.log_every) // unit
        units = max(1, min(budget, sum(rows.sizes)))
        self.images = units * unit
        """How many are judged with each log line."""
        size = max(unit, train.batch_size // (train.gradient_accumulation_steps * ranks.size))
        self._columns: list[Batch] = []  # all rows, a batch for each size of image
        self._inputs: list[NetworkInputs] = []  # of this process's share
        places: list[Tensor] = []
        done = 0
        buckets = rows.by_shape()
        for bucket, count in zip(buckets, _apportioned(units, buckets), strict=True):
            if not count:
                continue
            batch = next(Stream(bucket, seed=train.seed, batch_size=count * unit).batches())
            share = -(-count // ranks.size) * unit
            first = min(ranks.rank * share, count * unit - share)
            alike = train.model_copy(update={"batch_size": count * unit, "prompt_dropout": 0.0})
            sampler = NoiseSampler(family, alike, unit=unit)
            builder = InputBuilder(sampler, train.draws, rows.unconditional, ranks.device, None)
            for at in range(first, first + share, size):
                part = batch._replace(start=0).part(at, min(at + size, first + share))
                self._inputs.append(builder.build(0, part)[0])
            self._columns.append(batch)
            places.append(torch.arange(done + first, done + first + share))
            done += count * unit
        self._places = torch.cat(places).to(ranks.device)
        self._before = [learner.likelihood(inputs) for inputs in self._inputs]
        self._reference = None
        if objective.needs_reference:
            reference = [learner.mean_over_draws(before.values) for before in self._before]
            self._reference = self._gathered(reference)
        self._untrained = self._judge(self._before)["held_out_loss"]

    def judge(self) -> dict[str, float]:
        """``KEYS`` of the held-out rows under the policy as it is, with their prefix.

        This waits for the device.
        """
        found = self._judge([self._learner.likelihood(inputs) for inputs in self._inputs])
        if self._untrained:
            change = (found["held_out_loss"] - self._untrained) / abs(self._untrained)
            found["held_out_loss_change"] = change
        return found

    def _judge(self, now: list[LogLikelihood]) -> dict[str, float]:
        values = self._gathered([self._learner.mean_over_draws(each.values) for each in now])
        target, weight, per_row_value = (
            torch.cat([getattr(batch, name) for batch in self._columns]).to(self._ranks.device)
            for name in ("target", "weight", "per_row_value")
        )
        distance = self._distance(now) if self._reference is not None else None
        terms = Terms(values, self._reference, target, weight, distance, per_row_value)
        statistics = Statistics(self._ranks.device)
        outcome = self._learner.outcome(terms)
        statistics.add(1, terms, outcome, torch.zeros((), device=self._ranks.device))
        found = summary(statistics.read())
        return {f"held_out_{key}": value for key in KEYS if (value := found.get(key)) is not None}

    def _distance(self, now: list[LogLikelihood]) -> Tensor | None:
        """See ``Terms.prediction_distance``; None of a family that predicts no such thing."""
        found: list[Tensor] = []
        for inputs, after, before in zip(self._inputs, now, self._before, strict=True):
            if after.residual is None or before.residual is None:
                return None
            found.append(self._learner.prediction_distance(after.residual, before.residual, inputs))
        return self._gathered(found)

    def _gathered(self, parts: list[Tensor]) -> Tensor:
        """All rows' values ``[images]`` from this process's share of them."""
        mine = torch.cat(parts)
        both = torch.zeros(2, self.images, device=mine.device)  # values; who gave them
        both[0, self._places], both[1, self._places] = mine, 1
        values, givers = self._ranks.sum(both)
        return values / givers


def _apportioned(units: int, buckets: Sequence[LabelledRows]) -> list[int]:
    """How many of the units each bucket gives, by how many it has."""
    ends = np.cumsum([0, *(sum(bucket.sizes) for bucket in buckets)])
    shares: list[int] = np.diff((2 * ends * units + ends[-1]) // (2 * ends[-1])).tolist()
    return shares
