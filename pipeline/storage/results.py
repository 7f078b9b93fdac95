"""What the stages leave as JSON, read back: threshold.json, evaluation.json, the training log.

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
"""The key of evaluation.json beside the test sets: which models were compared, and how."""
GOLD, TRUTH = "gold", "truth"
"""The judge's scores, beside those of the reward models: 1 where every attribute of the prompt is
correct, and the share of attributes that are."""


def evaluation() -> dict[str, Any]:
    """reports/evaluation.json: the figures of every score by test set, and ``FACTS``."""
    found = _json_object(layout.EVALUATION, "evaluate")
    facts = found.get(FACTS)
    sets = facts.get("sets") if isinstance(facts, dict) else None
    if not isinstance(sets, dict) or not all(isinstance(found.get(name), dict) for name in sets):
        raise InputError(f"{layout.EVALUATION}: is damaged; run `tgo evaluate` again")
    return found


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
