"""What decides a training run: should any of it change, its checkpoints are another run's."""

from __future__ import annotations

import hashlib
import inspect
from pathlib import Path
from types import ModuleType
from typing import Any

from pipeline import seeds
from pipeline.generators.base import Family
from pipeline.settings import Train
from trainer import journal, learner, objectives, order, rows, stream

FREE = {"updates", "workers", "checkpoint_every"}
"""Settings that leave every update as it is: a run continues across a change of them."""
MODULES = (journal, learner, objectives, order, rows, stream, seeds)
"""Modules that compute what an update does and what the log says of it."""


def fingerprint(train: Train, family: Family, labelled: rows.LabelledRows) -> dict[str, Any]:
    """Settings, model, labelled rows and code of a run, as JSON, by a name for each."""
    settings = train.model_dump(exclude=FREE)
    return {f"train.{key}": value for key, value in settings.items()} | {
        "generator": family.describe(),
        "labelled rows": labelled.fingerprint,
        "code": _code_sha256((*MODULES, inspect.getmodule(type(family)))),
    }


def _code_sha256(modules: tuple[ModuleType | None, ...]) -> str:
    digest = hashlib.sha256()
    for module in modules:
        if module is not None and module.__file__:
            digest.update(Path(module.__file__).read_bytes())
    return digest.hexdigest()
