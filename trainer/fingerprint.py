"""What decides a training run: should any of it change, its checkpoints are another run's."""

from __future__ import annotations

from typing import Any

from pipeline.fingerprint import code_sha256
from pipeline.generators.base import Family
from pipeline.settings import Train
from trainer.rows import LabelledRows

FREE = {"updates", "workers", "checkpoint_every"}
"""Settings that leave every update as it is: a run continues across a change of them."""
MODULES = ("journal", "learner", "objectives", "order", "rows", "stream")
"""Modules of this package that decide what an update does and what the log says of it."""


def fingerprint(train: Train, family: Family, rows: LabelledRows) -> dict[str, Any]:
    """Settings, model, labelled rows and code of a run, as JSON."""
    modules = [f"{__package__}.{name}" for name in MODULES]
    return {
        "train": train.model_dump(exclude=FREE),
        "generator": family.describe(),
        "labelled rows": rows.fingerprint,
        "code": code_sha256(*modules, type(family).__module__),
    }
