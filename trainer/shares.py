"""What each process of a run takes of the work, and what several cannot do together."""

from __future__ import annotations

from typing import Any

from tgo.pipeline.config.train_settings import Train
from tgo.pipeline.errors import InputError
from tgo.trainer.classes import ClassStream
from tgo.trainer.distributed import World
from tgo.trainer.objectives import Objective
from tgo.trainer.rows import LabelledRows
from tgo.trainer.stream import Stream


def make_stream(rows: LabelledRows, train: Train, world: World) -> Stream | ClassStream:
    """This process's share of the batches that the settings ask for."""
    arguments: dict[str, Any] = {
        "seed": train.seed,
        "batch_size": train.batch_size,
        "workers": train.workers,
        "pin": world.device.type == "cuda",
        "share": world.rows(train.batch_size),
    }
    if train.positives is None:
        return Stream(rows, **arguments)
    return ClassStream(rows, positives=train.positives, **arguments)


def check_world(train: Train, objective: Objective, world: World) -> None:
    """Refuse what processes cannot do together, such as to share a batch unequally."""
    parts = world.size * train.accumulate * (2 if objective.pairs else 1)
    if train.batch_size % parts:
        what = f"{world.size} processes x {train.accumulate} micro batches"
        what += " of pairs" if objective.pairs else ""
        raise InputError(
            f"train.batch_size = {train.batch_size} cannot be divided by {what}; make it a "
            f"multiple of {parts}"
        )
    if world.sharded and train.samples is not None:
        raise InputError(
            "train.samples: cannot be drawn while weights lie in parts; set it to null, "
            "or train.parallel to ddp"
        )
    if world.sharded and train.reference_cache is not None:
        raise InputError(
            "train.reference_cache: cannot be filled while weights lie in parts; set it to null, "
            "or train.parallel to ddp"
        )
    if world.sharded and train.optimizer != "adamw":
        raise InputError(
            f"train.optimizer: {train.optimizer} cannot keep its state in parts; set it to adamw, "
            "or train.parallel to ddp"
        )
    if world.sharded and train.lora is not None and train.reference == "epoch":
        raise InputError(
            "train.reference: adapters in parts cannot be exchanged for earlier ones; set it to "
            "initial, or train.parallel to ddp"
        )
