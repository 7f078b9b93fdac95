"""What the stages leave as JSON, read back: threshold.json, metrics.json, the training log.

The one place where these files become values: a missing or damaged one is an ``InputError`` that
names the file and the stage to run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tgo.pipeline import layout
from tgo.pipeline.documents import parse_json, read_json, read_text
from tgo.pipeline.errors import InputError
from tgo.pipeline.storage import label_record

FACTS = "generator"
"""The key of metrics.json beside the test sets: which models were compared, and how."""
GOLD = "gold"
"""The gold judge's row of a test set, beside those of the reward models."""


def metrics() -> dict[str, Any]:
    """reports/metrics.json."""
    return _json_object(layout.METRICS, "evaluate")


def threshold() -> dict[str, Any]:
    """data/labelled/threshold.json."""
    return label_record.read(layout.THRESHOLD)


def train_log() -> list[dict[str, Any]]:
    """The lines of reports/train_log.jsonl, at least one."""
    path = layout.TRAIN_LOG
    remedy = "run `tgo train` again"
    lines = [
        _checked(parse_json(line, path, remedy), path, "train")
        for line in read_text(path, remedy).splitlines()
    ]
    if not lines:
        raise InputError(f"{path}: is empty; run `tgo train` again")
    return lines


def _json_object(path: Path, stage: str) -> dict[str, Any]:
    found = read_json(path, f"run `tgo {stage}` again")
    return _checked(found, path, stage)


def _checked(found: Any, path: Path, stage: str) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise InputError(f"{path}: is damaged (not a JSON object); run `tgo {stage}` again")
    return found
