"""Which settings make a run fit into the memory that there is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tgo.pipeline.config.objectives import NEEDS
from tgo.pipeline.config.settings import Settings
from tgo.pipeline.errors import InputError
from tgo.pipeline.tools import memory
from tgo.pipeline.tools.costs import Cost

Changes = dict[str, Any]


def remedy(settings: Settings, cost: Cost, stage: str, room: float, gpus: int) -> str:
    """What to set so that a stage fits, in words.

    Args:
        settings: those of the run.
        cost: of the model.
        stage: score, train or evaluate.
        room: bytes that there are.
        gpus: how many cards share a training batch.

    Returns:
        The changes with the peak that is then expected; or that nothing of these is enough.
    """

    def peak(changes: Changes) -> float | None:
        """Bytes under changes; None where they are refused."""
        try:
            return memory.peaks(changed(settings, changes), cost, gpus=gpus)[stage]
        except (ValueError, InputError):
            return None

    steps = _training(settings, gpus) if stage == "train" else _making(settings)
    taken: Changes = {}
    least = peak(taken) or 0.0
    for change in steps:
        now = peak(taken | change)
        if now is None or now >= least * 0.99:
            continue
        taken, least = taken | change, now
        if least <= room:
            break
    if least > room:
        tried = f"with {_told(taken)} still {least / 1e9:.3g} GB" if taken else "no setting helps"
        return f"{tried}; use a larger card or a smaller model"
    for key in list(taken):  # what came first may not be needed after what came last
        fewer = {name: value for name, value in taken.items() if name != key}
        now = peak(fewer)
        if now is not None and now <= room:
            taken, least = fewer, now
    return f"set {_told(taken)}: then {least / 1e9:.3g} GB"


def _told(changes: Changes) -> str:
    def text(value: Any) -> str:
        if isinstance(value, dict):
            return "{" + ", ".join(f"{key}: {text(each)}" for key, each in value.items()) + "}"
        return json.dumps(value) if value is None or isinstance(value, bool) else str(value)

    return ", ".join(f"{key} = {text(value)}" for key, value in changes.items())


def changed(settings: Settings, changes: Changes) -> Settings:
    """Settings with some keys changed, checked as a whole.

    Raises ValueError where they cannot go together.
    """
    values = settings.model_dump()
    for key, value in changes.items():
        group, name = key.split(".")
        values[group][name] = value
    return Settings.model_validate(values)


def _training(settings: Settings, gpus: int) -> Iterator[Changes]:
    train = settings.train
    unit = gpus * (2 if NEEDS[train.objective].rows == "pairs" else 1)
    for parts in range(train.gradient_accumulation_steps + 1, train.batch_size + 1):
        if train.batch_size % (parts * unit) == 0:
            yield {"train.gradient_accumulation_steps": parts}
    yield {"train.gradient_checkpointing": True}
    yield {"train.precision": "bfloat16"}
    if train.lora is None:
        yield {"train.lora": {"rank": 16, "alpha": 16.0, "targets": None}}
    yield {"train.samples": None}
    for method in ("int8", "nf4"):
        yield {"generator.quantization": method}


def _making(settings: Settings) -> Iterator[Changes]:
    yield {"generator.offload": True}
    yield {"generator.vae_tiling": True}
    batch = settings.score.batch_size
    while batch > 1:
        batch //= 2
        yield {"score.batch_size": batch}
    yield {"generator.dtype": "bfloat16"}
    for method in ("int8", "nf4"):
        yield {"generator.quantization": method}
