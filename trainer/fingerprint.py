"""What decides a training run: should any of it change, its checkpoints are another run's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tgo.pipeline.config.train_settings import FREE
from tgo.pipeline.storage.fingerprint import code_sha256

if TYPE_CHECKING:
    from tgo.pipeline.config.train_settings import Train
    from tgo.pipeline.generators.base import Family
    from tgo.trainer.dataset import LabelledRows

CODE = ("tgo.trainer.learner", "tgo.trainer.training_data")
"""Where a step is computed, and where what it is computed on comes from: all other code that
decides a run follows from their imports."""


def fingerprint(train: Train, family: Family, rows: LabelledRows) -> dict[str, Any]:
    """Settings, model, labelled rows and code of a run, as JSON."""
    return {
        "train": _used(train),
        "generator": family.describe(),
        "labelled rows": rows.fingerprint,
        "code": code_sha256(*CODE, type(family).__module__),
    }


def _used(train: Train) -> dict[str, Any]:
    """The settings without those that change nothing here: other objectives', an idle auto.

    A schedule that ends with the run is another one when `steps` is.
    """
    values = train.model_dump(exclude=FREE)
    own = values["objectives"].get(train.objective)
    values["objectives"] = {train.objective: own}
    if train.schedule.name != "constant":
        values["steps"] = train.steps
    if not isinstance(train.beta, str):
        del values["auto_beta"]
    return values
