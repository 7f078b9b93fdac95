"""What decides a training run: should any of it change, its checkpoints are another run's."""

from __future__ import annotations

from typing import Any

from tgo.pipeline.config.train_settings import AUTO, Train
from tgo.pipeline.generators.base import Family
from tgo.pipeline.storage.fingerprint import code_sha256
from tgo.trainer.rows import LabelledRows

FREE = {
    "accumulate",
    "checkpoint_every",
    "collapse",
    "gradient_checkpointing",
    "loggers",
    "parallel",
    "samples",
    "updates",
    "workers",
}
"""Settings that leave every update as it is, `accumulate` up to rounding: a run continues across a
change of them, as across one of the number of processes."""
MODULES = (
    "adapters",
    "classes",
    "distributed",
    "draws",
    "inputs",
    "journal",
    "learner",
    "networks",
    "objectives.base",
    "objectives.beta",
    "objectives.labels",
    "objectives.pairs",
    "objectives.registry",
    "objectives.scores",
    "optimizers",
    "order",
    "quality",
    "reference_cache",
    "rows",
    "shares",
    "stream",
)
"""Modules of this package that decide what an update does and what the log says of it."""


def fingerprint(
    train: Train, family: Family, rows: LabelledRows, *, sharded: bool = False
) -> dict[str, Any]:
    """Settings, model, labelled rows and code of a run, as JSON."""
    modules = [f"{__package__}.{name}" for name in MODULES]
    return {
        "train": _used(train),
        "weights": "in parts" if sharded else "whole",
        "generator": family.describe(),
        "labelled rows": rows.fingerprint,
        "code": code_sha256(*modules, type(family).__module__),
    }


def _used(train: Train) -> dict[str, Any]:
    """The settings without those that change nothing here: other objectives', an idle auto.

    A schedule that ends with the run is another one when `updates` is.
    """
    values = train.model_dump(exclude=FREE)
    own = values["objectives"].get(train.objective)
    values["objectives"] = {train.objective: own}
    if train.schedule.name != "constant":
        values["updates"] = train.updates
    if train.beta != AUTO:
        del values["auto_beta"]
    return values
