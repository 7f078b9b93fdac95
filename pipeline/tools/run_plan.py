"""`tgo plan`: what a run would do and cost, and what would stop it. Loads and fetches nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tgo.pipeline.config.settings import Settings
from tgo.pipeline.errors import InputError
from tgo.pipeline.tools import cards, costs, fitting, memory, models, preflight
from tgo.pipeline.tools.cards import CARDS, Card
from tgo.pipeline.tools.costs import CPU_SHARES, LOADING, READING, SHARES, Cost, Work
from tgo.pipeline.wording import size

DEFAULT_GPU = "h200"
REFUSED = "REFUSED"
"""Begins a line about what a stage would refuse."""
EXCEEDS = "EXCEEDS"
"""Begins a line about a stage that memory does not hold."""
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
FILES = (".txt", ".tsv", ".csv", ".jsonl", ".json", ".parquet", ".pt", ".pth", ".safetensors")


def lines(
    settings: Settings, *, gpu: str = DEFAULT_GPU, gpus: int = 1, share: float | None = None
) -> Iterator[str]:
    """The plan of a run: what it computes, costs, stores and lacks.

    Args:
        settings: what is planned.
        gpu: a name of `cards.CARDS`, or dense bfloat16 TFLOP/s and GB as ``165:24``; settings with
            ``device: cpu`` are reckoned on two cores and this machine's memory.
        gpus: how many of them; hours stay GPU hours, days are those of the clock.
        share: of the peak that is reached; None takes `costs.SHARES`.

    Yields:
        str: a line without its end.

    Raises:
        InputError: `gpu` is neither a known name nor numbers above 0, or `share` is not between
            0 and 1.
    """
    card = cards.named(gpu)
    if share is not None and not 0 < share <= 1:
        raise InputError(f"--share {share}: must be above 0 and at most 1")
    images, prompts = costs.stage_one(settings)
    yield from _stage_one(settings, images, prompts)
    try:
        cost = models.cost_of(settings)
    except InputError as error:
        cost = None
        yield f"{REFUSED:<10} {error}"
    if cost is None:
        yield (
            f"cost       unknown: generator.model = {settings.generator.model!r} is neither here "
            "nor among those whose figures are shipped; `tgo fetch` brings it, or `hf download "
            "MODEL --include '*.json' '*/*.json' '*/*.txt'` its configurations alone"
        )
    else:
        name = gpu.upper() if gpu in CARDS else "GPUs"
        yield from _hours(settings, cost, card.tflops, f"{gpus} {name}", gpus, share)
        yield _storage(images, prompts, cost)
        yield from _memory(settings, cost, card, gpus)
    yield f"launch     score: {settings.launch.score}; train: {settings.launch.train}"
    yield from _absent(settings)
    for note in preflight.notes(settings):
        yield f"note       {note}"
    for problem in preflight.problems(settings):
        yield f"{REFUSED:<10} {problem}"


def _stage_one(settings: Settings, images: int, prompts: int) -> Iterator[str]:
    score, generator = settings.score, settings.generator
    yield (
        f"generator  {generator.family}: {generator.model}, {generator.steps} steps, "
        f"guidance {generator.guidance_scale:g}, {generator.dtype}"
    )
    if settings.imported:
        there = f"{images:,} images of {prompts:,} prompts are imported"
        yield f"score      nothing to generate: {there if images else 'run `tgo import` first'}"
        return
    per_shard = score.rows_per_shard // score.images_per_prompt
    shards = -(-prompts // per_shard)
    yield (
        f"score      {images:,} images of {prompts:,} prompts in {shards:,} shards of "
        f"{per_shard * score.images_per_prompt:,} rows, scored by {', '.join(settings.rewards)}"
    )


def _hours(
    settings: Settings, cost: Cost, peak: float, cards_named: str, gpus: int, share: float | None
) -> Iterator[str]:
    if settings.device == "cpu" or cost.side < 128:  # the miniatures
        yield from _cpu_hours(settings, cost)
        return
    total = 0.0
    for name, work, kind in _works(settings, cost):
        speed = peak * (share or SHARES[kind])
        hours = work.hours(speed)
        total += hours
        yield f"{name:<10} {_work(work)}, {speed / work.each:,.3g} images/s: {_gpu_hours(hours)}"
    reached = f"{share:.0%}" if share else ", ".join(f"{k} {v:.0%}" for k, v in SHARES.items())
    yield (
        f"together   {_gpu_hours(total)}: {_duration(total / gpus)} on {cards_named}, assuming "
        f"{reached} of {peak:g} TFLOP/s"
    )


def _works(settings: Settings, cost: Cost) -> list[tuple[str, Work, str]]:
    """Stages with what they compute, and whether they sample or train."""
    return [
        ("score", costs.scoring(settings, cost), "sample"),
        ("train", costs.training(settings, cost), "train"),
        ("evaluate", costs.evaluating(settings, cost), "sample"),
    ]


def _cpu_hours(settings: Settings, cost: Cost) -> Iterator[str]:
    """The same on this machine's cores."""
    speed = cards.cpu_tflops(settings.threads)
    cores = f"{settings.threads} CPU threads"
    weights = memory.weights(settings, cost)
    total = 0.0
    for name, work, kind in _works(settings, cost):
        reached = speed * CPU_SHARES[kind]
        loading = LOADING + weights.get(name, 0.0) / READING
        hours = work.hours(reached) + (loading / 3600 if work.images else 0.0)
        total += hours
        yield f"{name:<10} {_work(work)}, {reached / work.each:,.3g} images/s: {_duration(hours)}"
    yield (
        f"together   {_duration(total)} on {cores} of this machine, which multiply matrices at "
        f"{speed:.2g} TFLOP/s"
    )


def _work(work: Work) -> str:
    flops, unit = next(
        (work.each / size, name)
        for size, name in ((1000, "PFLOP"), (1, "TFLOP"), (0.001, "GFLOP"))
        if work.each >= size or name == "GFLOP"
    )
    return f"{work.images:,} images of {flops:,.3g} {unit}"


def _memory(settings: Settings, cost: Cost, card: Card, gpus: int) -> Iterator[str]:
    """Peak memory of each stage, and what to set where it does not fit."""
    peaks = memory.peaks(settings, cost, gpus=gpus)
    if not peaks:
        return
    on_cpu = settings.device == "cpu"
    room = cards.machine_bytes() if on_cpu else card.bytes
    listed = ", ".join(f"{stage} {size(peak)}" for stage, peak in peaks.items())
    if room is None:
        yield f"memory     at its peak {listed}; name the card's GB, too: --gpu {card.tflops:g}:24"
        return
    where = "this machine" if on_cpu else "the card"
    yield f"memory     at its peak {listed}, of {size(room)} of {where}"
    for stage, peak in peaks.items():
        if peak > room:
            told = fitting.remedy(settings, cost, stage, room, gpus)
            yield f"{EXCEEDS:<10} {stage} takes {size(peak)}: {told}"


def _storage(images: int, prompts: int, cost: Cost) -> str:
    parts = costs.storage(images, prompts, cost)
    listed = ", ".join(f"{kind} {size(part)}" for kind, part in parts.items())
    return f"storage    {size(sum(parts.values()))} ({listed})"


def _gpu_hours(hours: float) -> str:
    return f"{hours:,.2g} GPU hours" if hours >= 0.1 else f"{60 * hours:,.2g} GPU minutes"


def _duration(hours: float) -> str:
    """Hours in the unit a person would use."""
    if hours < 1 / 60:
        return f"{3600 * hours:,.2g} s"
    if hours < 1:
        return f"{60 * hours:,.2g} min"
    return f"{hours:,.3g} hours" if hours < 48 else f"{hours / 24:,.3g} days"


def _absent(settings: Settings) -> Iterator[str]:
    """What is not on this machine: names of the hub, and files that are missing."""
    sources = {
        "generator.model": settings.generator.model,
        **{key: entry.source for key, entry in settings.prompts.by_key().items()},
        **{f"rewards.{name}": entry.source for name, entry in settings.rewards.items()},
    }
    absent = {key: source for key, source in sources.items() if not Path(source).exists()}
    fetched = {key: source for key, source in absent.items() if _on_the_hub(source)}
    for word, keys in (("download", fetched), ("MISSING", absent.keys() - fetched.keys())):
        if keys:
            yield f"{word:<10} {', '.join(f'{key} = {sources[key]}' for key in sorted(keys))}"


def _on_the_hub(source: str) -> bool:
    """Whether a source has the form of a hub id, `owner/name`, and is no place on this disk."""
    owner = source.partition("/")[0]
    is_file = Path(source).suffix.lower() in FILES
    return HUB_ID.fullmatch(source) is not None and not is_file and not Path(owner).is_dir()
