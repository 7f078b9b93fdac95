"""`tgo plan`: what a run would do and cost. Settings are checked, nothing is loaded or fetched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tgo.pipeline.config.settings import Settings
from tgo.pipeline.errors import InputError
from tgo.pipeline.tools import costs
from tgo.pipeline.tools.costs import CPU_TFLOPS, GPUS, MODELS, SHARES, Cost, Work

DEFAULT_GPU = "h200"


def lines(
    settings: Settings, *, gpu: str = DEFAULT_GPU, gpus: int = 1, share: float | None = None
) -> Iterator[str]:
    """The plan, a line each.

    Args:
        gpu: a name of `costs.GPUS`; settings with ``device: cpu`` are reckoned on two cores.
        gpus: how many of them; hours stay GPU hours, days are those of the clock.
        share: of the peak that is reached; None takes `costs.SHARES`.

    Raises:
        InputError: `gpu` is not known, or `share` is not between 0 and 1.
    """
    if gpu not in GPUS:
        raise InputError(f"--gpu {gpu}: not known; use one of {', '.join(GPUS)}")
    if share is not None and not 0 < share <= 1:
        raise InputError(f"--share {share}: must be above 0 and at most 1")
    yield from _stage_one(settings)
    cost = MODELS.get(settings.generator.model)
    if cost is None:
        yield (
            f"cost       unknown: generator.model = {settings.generator.model!r} is not among "
            f"{', '.join(MODELS)}; benchmarks/generate.py measures it"
        )
    else:
        yield from _hours(settings, cost, gpu, gpus, share)
        yield _storage(settings, cost)
    yield f"launch     score: {settings.launch.score}; train: {settings.launch.train}"
    yield from _unchecked(settings)


def _stage_one(settings: Settings) -> Iterator[str]:
    score, generator = settings.score, settings.generator
    images = score.prompts * score.images_per_prompt
    per_shard = score.rows_per_shard // score.images_per_prompt
    shards = -(-score.prompts // per_shard)
    yield (
        f"generator  {generator.family}: {generator.model}, {generator.steps} steps, "
        f"guidance {generator.guidance_scale:g}, {generator.dtype}"
    )
    yield (
        f"score      {images:,} images of {score.prompts:,} prompts in {shards:,} shards of "
        f"{per_shard * score.images_per_prompt:,} rows, scored by {', '.join(settings.rewards)}"
    )


def _hours(
    settings: Settings, cost: Cost, gpu: str, gpus: int, share: float | None
) -> Iterator[str]:
    on_cpu = settings.device == "cpu" or cost.side < 128  # the miniatures
    unit = "hours on two cores" if on_cpu else "GPU hours"
    total = 0.0
    for name, work, kind in (
        ("score", costs.scoring(settings, cost), "sample"),
        ("train", costs.training(settings, cost), "train"),
        ("evaluate", costs.evaluating(settings, cost), "sample"),
    ):
        speed = CPU_TFLOPS if on_cpu else GPUS[gpu] * (share or SHARES[kind])
        hours = work.hours(speed)
        total += hours
        yield f"{name:<10} {_work(work)}, {speed / work.each:,.3g} images/s: {hours:,.3g} {unit}"
    if on_cpu:
        yield f"together   {total:,.3g} {unit}, at {CPU_TFLOPS} TFLOP/s"
        return
    reached = f"{share:.0%}" if share else ", ".join(f"{k} {v:.0%}" for k, v in SHARES.items())
    yield (
        f"together   {total:,.3g} {unit}: {total / gpus / 24:,.3g} days on {gpus} {gpu.upper()}, "
        f"assuming {reached} of {GPUS[gpu]:g} TFLOP/s"
    )


def _work(work: Work) -> str:
    return f"{work.images:,} images of {work.each:,.3g} TFLOP"


def _storage(settings: Settings, cost: Cost) -> str:
    parts = costs.storage(settings, cost)
    told = ", ".join(f"{kind} {size / 1e12:,.3g}" for kind, size in parts.items())
    return f"storage    {sum(parts.values()) / 1e12:,.3g} TB ({told})"


def _unchecked(settings: Settings) -> Iterator[str]:
    """Files that are not there: perhaps a name of the hub, perhaps a mistake."""
    sources = {
        "generator.model": settings.generator.model,
        "prompts.train": settings.prompts.train.source,
        **{f"rewards.{name}": entry.source for name, entry in settings.rewards.items()},
    }
    absent = [f"{key} = {source}" for key, source in sources.items() if not Path(source).exists()]
    if absent:
        yield f"not here   {', '.join(absent)}: fetched from the hub, or missing"
