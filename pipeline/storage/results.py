"""What the stages leave as JSON, read back: threshold.json, metrics.json, the training log.

The one place where these files become values: a missing or damaged one is an ``InputError`` that
names the file and the stage to run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tgo.pipeline import layout
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
    if not layout.THRESHOLD.exists():
        raise InputError(f"{layout.THRESHOLD}: is missing; run `tgo label` first")
    return label_record.read(layout.THRESHOLD)


def train_log() -> list[dict[str, Any]]:
    """The lines of reports/train_log.jsonl, at least one."""
    path = layout.TRAIN_LOG
    lines = [_parsed(line, path, "train") for line in _text(path, "train").splitlines()]
    if not lines:
        raise InputError(f"{path}: is empty; run `tgo train` again")
    return lines


def _json_object(path: Path, stage: str) -> dict[str, Any]:
    return _parsed(_text(path, stage), path, stage)


def _text(path: Path, stage: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: is missing; run `tgo {stage}` first") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is damaged ({error}); run `tgo {stage}` again") from None


def _parsed(text: str, path: Path, stage: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is damaged ({error}); run `tgo {stage}` again") from None
    if not isinstance(found, dict):
        raise InputError(f"{path}: is damaged (not a JSON object); run `tgo {stage}` again")
    return found
