"""What a run tells of itself: statistics gathered on the device, read once per log line.

A line of ``train_log.jsonl`` holds means since the line before it and has the same bytes in
every run of the same settings; what depends on the clock goes to ``train_timing.jsonl``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tgo.pipeline.errors import InputError
from tgo.trainer.distributed import World
from tgo.trainer.loggers import Loggers
from tgo.trainer.objectives import Outcome, Terms
from tgo.trainer.speed import Speed
from torch import Tensor

Sums = dict[str, float]


SATURATED = 0.02
"""A sample is saturated when the factor ``sigmoid(-|logit|)`` of its gradient is below this."""


class Statistics:
    """Sums over updates, kept on the device: adding to them never waits for it."""

    NAMES = (
        "updates",
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
        "gaps",
        "kl",
        # of samples or pairs on which a side can be told, and of those with a sigmoid
        "sides",
        "right_side",
        "logits",
        "grad_factor",
        "saturation",
    )

    PER_UPDATE = ("updates", "loss", "grad_norm", "beta")
    """Those that every process has in full; of the others each has its share."""

    def __init__(self, device: torch.device, world: World | None = None) -> None:
        self._device = device
        self._world = world or World(device)
        self._sums = torch.zeros(len(self.NAMES), device=device)
        self._first_bad = torch.full((), -1, dtype=torch.int64, device=device)

    @torch.no_grad()
    def add(self, update: int, terms: Terms, outcome: Outcome, grad_norm: Tensor) -> None:
        """Take in one update: its terms, what came of them, the gradient norm before clipping."""
        loss, label = outcome.loss.mean(), terms.label
        found: dict[str, Tensor | float] = {
            "updates": 1,
            "loss": loss,
            "grad_norm": grad_norm,
            "positives": label.sum(),
            "log_likelihood_positive": (terms.log_likelihood * label).sum(),
        }
        if terms.reference is not None:
            found |= _compared(terms, outcome.beta)
        if terms.gap is not None:
            found |= {"gaps": len(label), "kl": terms.gap.sum()}
        found |= _sides(terms, outcome)
        self._sums += torch.stack([self._scalar(found.get(name, 0.0)) for name in self.NAMES])
        bad = ~(loss.isfinite() & grad_norm.isfinite()) & (self._first_bad < 0)
        self._first_bad = torch.where(bad, update, self._first_bad)

    def _scalar(self, value: Tensor | float) -> Tensor:
        """A number on the device; one from the host is filled in there, not copied and awaited."""
        if isinstance(value, Tensor):
            return value.float()
        return torch.full((), float(value), device=self._device)

    def read(self) -> Sums:
        """The sums so far of all processes, each of which must ask (this waits for the device).

        Raises InputError if an update diverged.
        """
        first_bad = self._world.highest(int(self._first_bad))
        if first_bad >= 0:
            raise InputError(
                f"train: loss or gradient was NaN or infinite at update {first_bad}; lower "
                "train.learning_rate (or train.beta); the last good checkpoint is kept"
            )
        values = dict(zip(self.NAMES, self._world.sum(self._sums).tolist(), strict=True))
        return values | {name: values[name] / self._world.size for name in self.PER_UPDATE}

    def reset(self, values: Sequence[float] | None = None) -> None:
        """Begin again from zero, or from ``values`` as ``read`` gave them."""
        self._sums.zero_()
        if values is not None:
            given = dict(zip(self.NAMES, values, strict=True))
            shares = {name: value / self._world.size for name, value in given.items()}
            kept = shares | {name: given[name] for name in self.PER_UPDATE}
            self._sums.copy_(torch.tensor([kept[name] for name in self.NAMES]))


def _compared(terms: Terms, beta: Tensor | float) -> dict[str, Tensor | float]:
    """Sums of what policy and reference say of the same samples."""
    label, ratio, reference = terms.label, terms.log_ratio, terms.given("reference")
    reward = beta * ratio
    return {
        "compared_positive": label.sum(),
        "compared_negative": (1 - label).sum(),
        "log_ratio_positive": (ratio * label).sum(),
        "log_ratio_negative": (ratio * (1 - label)).sum(),
        "reward_positive": (reward * label).sum(),
        "reward_negative": (reward * (1 - label)).sum(),
        "reference_positive": (reference * label).sum(),
        "beta": beta,
    }


def _sides(terms: Terms, outcome: Outcome) -> dict[str, Tensor | float]:
    """On which side of the sigmoid samples lie; without one, the sign of the log-ratio tells."""
    logit, target = outcome.logit, outcome.target
    if logit is None or target is None:
        if terms.reference is None:
            return {}
        return {"sides": len(terms.label), "right_side": _right(terms.log_ratio, terms.label)}
    return {
        "sides": len(logit),
        "right_side": _right(logit, target),
        "logits": len(logit),
        "grad_factor": (target - torch.sigmoid(logit)).abs().sum(),
        "saturation": (torch.sigmoid(-logit.abs()) < SATURATED).sum(),
    }


def _right(value: Tensor, target: Tensor) -> Tensor:
    """How many values have the sign of their target; 0 lies on neither side: a half."""
    return ((1 + (value * (2 * target - 1)).sign()) / 2).sum()


def summary(sums: Sums) -> dict[str, float | None]:
    """What a log line says of the updates in ``sums`` (keys as in docs/training.md).

    loss, grad_norm: means over updates; log_likelihood_positive: over positives. With a reference
    also the mean log-ratio of positives and of negatives, their implicit rewards' difference
    (``margin``), ``likelihood_change``, the positives' log-ratio relative to their log-likelihood
    before, and ``beta``. With comparable predictions ``kl``, the mean of ``Terms.gap``, and
    ``drift``. With a sigmoid ``grad_factor``, the mean of ``|target - sigmoid(logit)|``, and
    ``saturation``. None where a class had no sample.
    """
    means: dict[str, float | None] = {
        key: sums[key] / sums["updates"] for key in ("loss", "grad_norm")
    }
    positive = sums["positives"]
    means["log_likelihood_positive"] = _ratio(sums["log_likelihood_positive"], positive)
    if sums["compared_positive"] + sums["compared_negative"]:
        means |= _comparison(sums)
    if sums["sides"]:
        means["right_side"] = sums["right_side"] / sums["sides"]
    if sums["logits"]:
        means |= {key: sums[key] / sums["logits"] for key in ("grad_factor", "saturation")}
    return means


def _comparison(sums: Sums) -> dict[str, float | None]:
    positives, negatives = sums["compared_positive"], sums["compared_negative"]
    beta = sums["beta"] / sums["updates"]
    rewards = (
        _ratio(sums["reward_positive"], positives),
        _ratio(sums["reward_negative"], negatives),
    )
    margin = None if rewards[0] is None or rewards[1] is None else rewards[0] - rewards[1]
    kl = _ratio(sums["kl"], sums["gaps"])
    return {
        "beta": beta,
        "margin": margin,
        "log_ratio_positive": _ratio(sums["log_ratio_positive"], positives),
        "log_ratio_negative": _ratio(sums["log_ratio_negative"], negatives),
        "likelihood_change": _ratio(sums["log_ratio_positive"], abs(sums["reference_positive"])),
        "kl": kl,
        "drift": None if kl is None or not margin else 2 * beta * kl / abs(margin),
    }


def _ratio(total: float, count: float) -> float | None:
    return total / count if count else None


def _entry(text: str) -> dict[str, Any]:
    """A line of timings; empty for one that a full disk cut off."""
    try:
        return dict(json.loads(text))
    except ValueError:
        return {}


class Log:
    """The log file of a run, rewritten from ``text`` (that of a checkpoint) when it begins.

    Timings go beside it, and each line with its timing to ``loggers``, earlier ones first.
    """

    def __init__(self, path: Path, text: str, loggers: Loggers) -> None:
        self._path, self._loggers = path, loggers
        self._timing = path.with_name("train_timing.jsonl")
        self.lines: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()]
        """All lines so far."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        timings = self._rewind_timings()
        for line in self.lines:
            loggers.line(line | timings.get(line["update"], {}))
        self._clock = time.monotonic()

    def text(self) -> str:
        """The file as it is."""
        return self._path.read_text(encoding="utf-8")

    def pause(self, seconds: float) -> None:
        """Leave out of the next line's timing what was no training."""
        self._clock += seconds

    def write(self, line: dict[str, Any], images: int, speed: Speed) -> dict[str, float | None]:
        """Append a line that tells of ``images`` images; returns its timing (`Speed.of`)."""
        now = time.monotonic()
        seconds, self._clock = now - self._clock, now
        timing = speed.of(images, seconds)
        self.lines.append(line)
        timed = {"update": line["update"], **timing}
        for path, entry in ((self._path, line), (self._timing, timed)):
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
        self._loggers.line(line | timing)
        return timing

    def _rewind_timings(self) -> dict[int, dict[str, Any]]:
        """Keep the timings of the lines there are, no others, one each; returns them by update."""
        kept = {}
        if self._timing.is_file():
            there = {line["update"] for line in self.lines}
            told = [_entry(text) for text in self._timing.read_text(encoding="utf-8").splitlines()]
            kept = {entry["update"]: entry for entry in told if entry.get("update") in there}
        text = "".join(json.dumps(entry) + "\n" for entry in kept.values())
        self._timing.write_text(text, encoding="utf-8")
        return kept
