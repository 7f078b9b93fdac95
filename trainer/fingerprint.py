"""What decides a training run: should any of it change, its checkpoints are another run's."""

from __future__ import annotations

from typing import Any

from pipeline.fingerprint import code_sha256
from pipeline.generators.base import Family
from pipeline.train_settings import AUTO, Train
from trainer.rows import LabelledRows

FREE = {"updates", "workers", "checkpoint_every", "collapse", "loggers", "samples"}
"""Settings that leave every update as it is: a run continues across a change of them."""
MODULES = (
    "journal",
    "learner",
    "objectives.base",
    "objectives.beta",
    "objectives.labels",
    "objectives.pairs",
    "objectives.registry",
    "objectives.scores",
    "order",
    "quality",
    "reference_cache",
    "rows",
    "stream",
)
"""Modules of this package that decide what an update does and what the log says of it."""


def fingerprint(train: Train, family: Family, rows: LabelledRows) -> dict[str, Any]:
    """Settings, model, labelled rows and code of a run, as JSON."""
    modules = [f"{__package__}.{name}" for name in MODULES]
    return {
        "train": _used(train),
        "generator": family.describe(),
        "labelled rows": rows.fingerprint,
        "code": code_sha256(*modules, type(family).__module__),
    }


def _used(train: Train) -> dict[str, Any]:
    """The settings without those that change nothing here: other objectives', an idle auto."""
    values = train.model_dump(exclude=FREE)
    own = values["objectives"].get(train.objective)
    values["objectives"] = {train.objective: own}
    if train.beta != AUTO:
        del values["auto_beta"]
    return values
