"""Settings changed one by one from a common start, on the validation prompts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from benchmarks.claims.plans import (
    ALL_FIVE,
    COSINE,
    FAMILY,
    PER_PROMPT,
    Changes,
    base,
    feedback,
    levels,
    objectives,
)
from benchmarks.claims.run import Run

# the settings from which `explore` changes one at a time
CENTRE: dict[str, Changes] = {
    "diffusion": {**PER_PROMPT, **levels(1.2), "train.learning_rate": 3e-4},
    "masked": {"label.scope": "prompt"},
}


def explore() -> list[Run]:
    """Settings changed one by one from a common start, and some together; validation prompts."""
    runs = [*base(), *_shipped(), *_explore_diffusion(), *_explore_masked()]
    return sorted(runs, key=_cost)


LATER = ("dropout", "ema", "cosine", "batch", "weights", "confidence", "sft", "rwr")
"""Runs that may be left out where time is short."""


def _cost(run: Run) -> int:
    """Sort key: base models first, then the longest runs, which would otherwise end last."""
    if run.changes is None:
        return -9
    steps = run.changes.get("train.steps", 300) * run.rounds
    return 1 if run.name.startswith(LATER) else -min(steps // 900, 3)


def _shipped() -> Iterator[Run]:
    yield Run("shipped-diffusion", guidances=(1.0, 1.5, 3.0, 4.0))
    yield Run("shipped-masked", "masked", guidances=(1.0, 2.0, 4.0, 6.0))


def _explore_diffusion() -> Iterator[Run]:
    centre = Run("centre", changes=CENTRE["diffusion"], guidances=(1.0, 1.5, 3.0, 4.0))

    def vary(name: str, changes: Changes | None = None, **run: Any) -> Run:
        found = {**CENTRE["diffusion"], **(changes or {})}
        return replace(centre, name=name, changes=found, guidances=(), **run)

    yield centre
    yield vary("scope-global", {"label.scope": "global", "label.shrinkage": None})
    yield vary("scope-domain", {"label.scope": "domain", "label.shrinkage": None})
    yield vary("shrinkage-none", {"label.shrinkage": None})
    yield vary("levels-family", FAMILY)
    yield vary("levels-0.5", levels(0.5, 1.0))
    yield vary("levels-2", levels(2.0))
    yield vary("levels-3", levels(3.0))
    yield vary("levels-snr5", levels(1.2, snr_gamma=5.0))
    for rate in (1e-4, 1e-3):
        yield vary(f"rate-{rate:g}", {"train.learning_rate": rate})
    for beta in (0.02, 0.05, 0.1, 0.5, 1.0, 5.0):
        yield vary(f"beta-{beta:g}", {"train.beta": beta})
    yield vary("beta-auto", {"train.beta": "auto"})
    for draws in (2, 4):
        yield vary(f"draws-{draws}", {"train.draws": draws})
    yield vary("dropout", {"train.prompt_dropout": 0.1})
    for decay in (0.9, 0.995):
        yield vary(f"ema-{decay:g}", {"train.ema_decay": decay})
    yield vary("cosine", COSINE)
    yield vary("batch-256", {"train.batch_size": 256})
    for name in ("hpsv2", "imagereward", "clip", "aesthetic"):
        yield vary(f"feedback-{name}", feedback(name))
    yield vary("feedback-five", ALL_FIVE)
    yield vary("weights-none", {"label.weights": "none", "label.confidence": None})
    yield vary("confidence-20", {"label.confidence": 20.0})
    for share in (25.0, 75.0):
        yield vary(f"percentile-{share:g}", {"label.percentile": share})
    for steps in (100, 1000, 3000):
        yield vary(f"steps-{steps}", {"train.steps": steps})
        yield vary(f"more-{steps}", {"train.steps": steps}, prompts=2048)
    yield vary("more-300", prompts=2048)
    yield vary("more-1000-cosine", {"train.steps": 1000, **COSINE}, prompts=2048)
    for beta in (0.05, 1.0):
        yield vary(
            f"more-1000-beta-{beta:g}", {"train.steps": 1000, "train.beta": beta}, prompts=2048
        )
    slow = {"train.steps": 1000, "train.learning_rate": 1e-4}
    yield vary("more-1000-rate-1e-4", slow, prompts=2048)
    yield vary("more-1000-family", {"train.steps": 1000, **FAMILY}, prompts=2048)
    yield vary("more-1000-five", {"train.steps": 1000, **ALL_FIVE}, prompts=2048)
    single = {"label.scope": "domain", "label.shrinkage": None}
    yield vary("single-domain", single, prompts=2048, images=1)
    for reference in ("last", "first"):
        for steps in (100, 300):
            name = f"rounds-3-{reference}-{steps}"
            yield vary(name, {"train.steps": steps}, rounds=3, reference=reference)
    yield vary("rounds-4-last-five", {"train.steps": 200, **ALL_FIVE}, rounds=4)
    yield vary("rounds-3-last-rate-1e-4", {"train.learning_rate": 1e-4}, rounds=3)
    for penalty in (0.1, 1.0, 10.0):
        own = {"train.objectives": objectives(lair={"penalty": penalty})}
        yield vary(f"lair-{penalty:g}", {"train.objective": "lair", **own})
    for mix in (0.1, 1.0):
        own = {"train.objectives": objectives(nft={"mix": mix, "clip": 1.0})}
        yield vary(f"nft-{mix:g}", {"train.objective": "nft", **own})
    for beta in (0.2, 1.0, 2.5):
        yield vary(f"dpo-{beta:g}", {"train.objective": "dpo", "train.beta": beta})
    yield vary("dpo-more-1000", {"train.objective": "dpo", "train.steps": 1000}, prompts=2048)
    lair = {"train.objective": "lair", "train.steps": 1000}
    yield vary("lair-more-1000", lair, prompts=2048)
    for rate in (3e-4, 1e-3):
        sft = {"train.objective": "sft", "train.learning_rate": rate}
        yield vary(f"sft-{rate:g}", sft)
        yield vary(f"sft-best-{rate:g}", {**sft, "label.percentile": 75.0})
    yield vary("rwr", {"train.objective": "rwr"})


def _explore_masked() -> Iterator[Run]:
    centre = Run("masked-centre", "masked", changes=CENTRE["masked"])

    def vary(name: str, changes: Changes | None = None, **run: Any) -> Run:
        found = {**CENTRE["masked"], **(changes or {})}
        return replace(centre, name=f"masked-{name}", changes=found, **run)

    for beta in (10.0, 100.0, 300.0):
        yield vary(f"beta-{beta:g}", {"train.beta": beta})
        yield vary(f"beta-{beta:g}-rate-3e-4", {"train.beta": beta, "train.learning_rate": 3e-4})
    yield vary("rate-3e-4", {"train.learning_rate": 3e-4})
    yield vary("shrinkage-1", {"label.shrinkage": 1.0})
    yield vary("scope-domain", {"label.scope": "domain"})
    for draws in (2, 4):
        yield vary(f"draws-{draws}", {"train.draws": draws})
    yield vary("steps-1000", {"train.steps": 1000})
    yield vary("more-300", prompts=2048)
    yield vary("more-1000", {"train.steps": 1000}, prompts=2048)
    fast = {"train.steps": 1000, "train.beta": 100.0, "train.learning_rate": 3e-4}
    yield vary("more-1000-beta-100-rate-3e-4", fast, prompts=2048)
    yield vary("more-1000-beta-100", {"train.steps": 1000, "train.beta": 100.0}, prompts=2048)
    yield vary("five", ALL_FIVE)
    for name in ("imagereward", "clip"):
        yield vary(f"feedback-{name}", feedback(name))
    for reference in ("last", "first"):
        yield vary(f"rounds-3-{reference}", rounds=3, reference=reference)
    for penalty in (0.1, 1.0):
        own = {"train.objectives": objectives(lair={"penalty": penalty})}
        yield vary(f"lair-{penalty:g}", {"train.objective": "lair", **own})
    for beta in (10.0, 30.0):
        yield vary(f"dpo-{beta:g}", {"train.objective": "dpo", "train.beta": beta})
