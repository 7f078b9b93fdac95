"""What the stages leave as JSON, read back: evaluation.json and the training log.

The one place where these files become values: a missing or damaged one is an ``InputError`` that
names the file and the stage to run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from tgo.pipeline import layout
from tgo.pipeline.documents import parse_json, read_json, read_text
from tgo.pipeline.errors import InputError

FACTS = "generator"
"""The key of evaluation.json beside the test sets: which models were compared, and how."""
GOLD, TRUTH = "gold", "truth"
"""The judge's scores, beside those of the reward models: 1 where every attribute of the prompt is
correct, and the share of attributes that are."""
UTILITY = "utility_"
"""Begins the names of further scores of a judge that knows the raters of reward models: how much
those of one would like the picture, without the noise of a single judgement."""


def is_judged(score: str) -> bool:
    """Whether a score is a judge's and no reward model's."""
    return score in (GOLD, TRUTH) or score.startswith(UTILITY)


def shown(scores: Iterable[str], feedback: Collection[str]) -> list[str]:
    """The scores that are worth a reader's time.

    Args:
        scores: all of them.
        feedback: the reward models that the model was trained on.

    Returns:
        All but the utilities of other raters than those of the feedback.
    """
    own = {f"{UTILITY}{name}" for name in feedback}
    return [score for score in scores if not score.startswith(UTILITY) or score in own]


def evaluation(project: Path = Path(), remedy: str = "run `tgo evaluate` again") -> dict[str, Any]:
    """reports/evaluation.json: the figures of every score by test set, and ``FACTS``."""
    path = project / layout.EVALUATION
    found = read_json(path, remedy)
    if not isinstance(found, dict):
        raise InputError(f"{path}: is damaged (not a JSON object); {remedy}")
    facts = found.get(FACTS)
    sets = facts.get("sets") if isinstance(facts, dict) else None
    if not isinstance(sets, dict) or not all(isinstance(found.get(name), dict) for name in sets):
        raise InputError(f"{path}: is damaged (lacks a test set); {remedy}")
    return found


def train_log() -> list[dict[str, Any]]:
    """The lines of reports/train_log.jsonl, at least one."""
    path, remedy = layout.TRAIN_LOG, "run `tgo train` again"
    lines = [parse_json(line, path, remedy) for line in read_text(path, remedy).splitlines()]
    if not lines:
        raise InputError(f"{path}: is empty; {remedy}")
    if not all(isinstance(line, dict) and "step" in line and "loss" in line for line in lines):
        raise InputError(f"{path}: is damaged (a line is no line of training); {remedy}")
    return lines
