"""Is training healthy? Bands for what the log says, and when a run must be stopped.

Everything here is a pure function of log lines (docs/training.md has their keys), so the trainer,
the report and a reader of an old log come to the same verdict.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from tgo.pipeline.wording import minus

if TYPE_CHECKING:
    from tgo.pipeline.config.train_settings import Collapse

Line = Mapping[str, Any]
SPIKE = 5.0
"""How many times its median so far a gradient norm may be."""
WARM_UP = 3
"""Lines before spikes and the KL are judged: first gradients are untypical, first margins tiny."""


class Band(NamedTuple):
    """The healthy values of one key of the log, and what to think of others."""

    title: str
    low: float
    high: float
    below: str
    above: str

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high

    def remark(self, value: float) -> str:
        """What a value outside tells."""
        return self.below if value < self.low else self.above


BANDS = {
    "margin": Band("margin", 0.0, math.inf, "negatives gain more than positives", ""),
    "accuracy": Band(
        "accuracy", 0.5, 0.98, "worse than chance", "the labels are nearly learnt by heart"
    ),
    "grad_factor": Band(
        "gradient factor", 0.02, 0.55, "nothing more is learnt: lower beta", "pushed the wrong way"
    ),
    "saturation": Band("saturation", 0.0, 0.35, "", "most samples have no gradient: lower beta"),
    "likelihood_change": Band(
        "likelihood of positives",
        -0.025,
        math.inf,
        "positives are forgotten: lower the learning rate, raise beta, or train less",
        "",
    ),
    "kl_to_margin": Band(
        "KL to margin",
        0.0,
        2.5,
        "",
        "KL far beyond what the margin pays for: lower the learning rate",
    ),
    "held_out_rise": Band(
        "rise of the loss on held-out prompts",
        0.0,
        0.05,
        "",
        "the labels are learnt by heart: train less, or make more images",
    ),
    "grad_norm": Band("gradient norm, over its median", 0.0, SPIKE, "", "a spike"),
}
"""Healthy values, set on runs whose outcome is known (docs/training.md).

``grad_norm`` is judged as a multiple of its median over the lines before, ``held_out_rise`` is how
far the loss on held-out prompts lies above its lowest, as a share of the untrained model's.

``kl_to_margin`` is ``2 beta KL / margin``. Data drawn from the reference have, for a Gaussian
likelihood, a mean log-ratio of ``-KL``; with as many positives as negatives the positives' is
``margin / (2 beta) - KL``: above 1 even they should lose likelihood. Images drawn with guidance
are likelier than that, so a run may stay above 1 and gain; how far above is what tells.
"""


def judged(lines: Sequence[Line]) -> dict[str, float]:
    """The numbers of the last line to hold against ``BANDS``, by key; what it lacks is left out.

    Without a reference the likelihood of positives is compared with that of the first line.
    """
    last = lines[-1]
    found = {key: last.get(key) for key in BANDS}
    found["likelihood_change"] = _likelihood_change(lines)
    found["held_out_rise"] = _held_out_rise(lines)
    before = [line["grad_norm"] for line in lines[:-1]]
    typical = median(before) if len(before) >= WARM_UP else 0.0
    found["grad_norm"] = last["grad_norm"] / typical if typical > 0 else None
    if len(before) < WARM_UP:
        found["kl_to_margin"] = None
    return {key: float(value) for key, value in found.items() if value is not None}


class Verdict(NamedTuple):
    """A number of the last line of the log, held against the band in which training is healthy."""

    title: str
    value: str
    band: str
    healthy: bool
    remark: str


def verdicts(lines: Sequence[Line]) -> list[Verdict]:
    """Every number of the last line that has a band; none for an empty log."""
    if not lines:
        return []
    return [_verdict(BANDS[key], value) for key, value in judged(lines).items()]


def _verdict(band: Band, value: float) -> Verdict:
    if band.high == math.inf:
        healthy = f"at least {band.low:g}"
    else:
        healthy = f"{band.low:g} to {band.high:g}"
    holds = band.holds(value)
    remark = "" if holds else band.remark(value)
    return Verdict(band.title, minus(f"{value:.3g}"), minus(healthy), holds, remark)


def unhealthy(lines: Sequence[Line]) -> list[str]:
    """Keys of the last line that lie outside their band."""
    return [key for key, value in judged(lines).items() if not BANDS[key].holds(value)]


def collapsing(lines: Sequence[Line], limits: Collapse) -> str | None:
    """What the last line has of a collapse, in words; None if it has nothing."""
    change, right = _likelihood_change(lines), lines[-1].get("accuracy")
    fall = limits.likelihood_fall
    if fall is not None and change is not None and change < -fall:
        return f"the likelihood of positives fell by {-change:.0%}"
    rise = _held_out_rise(lines)
    if limits.held_out_rise is not None and rise is not None and rise > limits.held_out_rise:
        return f"the loss on held-out prompts lies {rise:.0%} above its lowest"
    if limits.accuracy is not None and right is not None and right < limits.accuracy:
        return f"only {right:.0%} of samples lie on the side of their label"
    return None


def collapsed(lines: Sequence[Line], limits: Collapse) -> str | None:
    """What is wrong, once ``limits.patience`` lines in a row show a collapse; else None."""
    count = limits.patience
    if len(lines) < count:
        return None
    ends = range(len(lines) - count + 1, len(lines) + 1)
    reasons = [collapsing(lines[:end], limits) for end in ends]
    return reasons[-1] if all(reasons) else None


def _held_out_rise(lines: Sequence[Line]) -> float | None:
    """How far the loss on held-out rows lies above its lowest, of the untrained model's size."""
    changes = [change for line in lines if (change := line.get("held_out_loss_change")) is not None]
    return changes[-1] - min(0.0, *changes) if changes else None


def _likelihood_change(lines: Sequence[Line]) -> float | None:
    """Relative change of the positives' log-likelihood; above 0 is a rise."""
    last, first = lines[-1], lines[0]
    if last.get("likelihood_change") is not None:
        return float(last["likelihood_change"])
    now, then = (line.get("log_likelihood_positive") for line in (last, first))
    return None if now is None or not then else (now - then) / abs(then)
