"""What a tuned model was trained on, noted beside its weights: its labels and settings.

A report or a card tells of them from threshold.json and params.yaml, which may have changed since.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tgo.pipeline import layout
from tgo.pipeline.config.train_settings import FREE, Train
from tgo.pipeline.documents import read_json
from tgo.pipeline.errors import InputError
from tgo.pipeline.storage import label_record
from tgo.pipeline.storage.atomic import write_json


def note(tuned: Path, train: Train, threshold: Path) -> None:
    """Write the note of a model.

    Args:
        tuned: the folder of the model.
        train: the settings of its training.
        threshold: the labels' threshold.json; none where labels are not of `tgo label`.
    """
    labels = label_record.read(threshold)["identity"] if threshold.is_file() else None
    write_json(tuned / layout.TRAINED_ON, {"labels": labels, "train": _told(train)})


def check(tuned: Path, train: Train, threshold: Path) -> None:
    """Check that a model was trained with these settings on these labels.

    Args:
        tuned: the folder of the model; one without a note passes.
        train: the settings of training.
        threshold: the labels' threshold.json, which may be missing.

    Raises:
        InputError: it was trained with others, or on others; the line names the first.
    """
    path = tuned / layout.TRAINED_ON
    if not path.is_file():
        return
    found = read_json(path, "run `tgo train` again")
    if not isinstance(found, dict) or not isinstance(found.get("train"), dict):
        raise InputError(f"{path}: is damaged; run `tgo train` again")
    for key, value in _told(train).items():
        if found["train"].get(key, value) != value:
            raise InputError(
                f"{tuned}: was trained with train.{key} = {found['train'][key]}, and params.yaml "
                f"says {value}; write there what it was, or run `tgo train` and what follows"
            )
    labels = label_record.read(threshold)["identity"] if threshold.is_file() else None
    if labels and found.get("labels") and found["labels"] != labels:
        raise InputError(
            f"{threshold}: is of other labels than {tuned} was trained on; run `tgo train` and "
            "what follows (or `dvc repro`), or bring the earlier labels back (`dvc checkout`)"
        )


def _told(train: Train) -> dict[str, Any]:
    """Settings that decide the weights, without those of objectives that were not trained with."""
    values = train.model_dump(mode="json", exclude=FREE - {"steps"})
    values["objectives"] = {train.objective: values["objectives"].get(train.objective)}
    return values
