"""What people said of base and tuned model: answers to `tgo ask --compare`, as win rates."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tgo.pipeline import layout
from tgo.pipeline.documents import read_json
from tgo.pipeline.errors import InputError
from tgo.pipeline.evaluation import stats
from tgo.pipeline.sources import raters, tables
from tgo.pipeline.storage import origin, shards

MODELS = ("base_sha256", "tuned_sha256")
_WON = {"a": 0.0, "tie": 0.5, "b": 1.0}
log = logging.getLogger(__name__)


def models(folders: Mapping[str, tuple[Path, Path]]) -> dict[str, str]:
    """Which two models made the images of some sets.

    Args:
        folders: By set the folders of the base and of the tuned model's images.

    Returns:
        The checksums of both models, as in evaluation.json.

    Raises:
        InputError: the sets are of different models.
    """
    found: dict[str, set[str]] = {key: set() for key in MODELS}
    for both in folders.values():
        for key, folder in zip(MODELS, both, strict=True):
            metadata = shards.read_metadata(shards.shard_paths(folder)[0])
            found[key].add(str(origin.model_of(metadata)))
    for key, several in found.items():
        if len(several) > 1:
            raise InputError(
                f"{', '.join(folders)}: hold images of different models ({key}); run "
                "`tgo evaluate` again"
            )
    return {key: several.pop() for key, several in found.items()}


def read(folder: Path, facts: Mapping[str, Any]) -> dict[str, dict[str, float | int | None]]:
    """How often people preferred the tuned model's image.

    Args:
        folder: The answers; it may be missing.
        facts: Of the evaluation: which two models it compares, and the seed of the bootstrap.

    Returns:
        By set `win_rate` with `win_low` and `win_high` (95 %, bootstrapped over prompts; a tie is
        half a win), `answers`, `pairs`, `raters` and their agreement `alpha` (Krippendorff's,
        nominal; None where no pair was shown to two). Empty where there are no answers, or where
        they are of other models, which is logged.

    Raises:
        InputError: a file of the answers cannot be read.
    """
    answers = folder / layout.ANSWERS
    if not answers.is_file():
        return {}
    setup = read_json(folder / layout.QUESTIONS, "move its folder away")
    if not isinstance(setup, dict):
        raise InputError(f"{folder / layout.QUESTIONS}: holds no object; move its folder away")
    if any(setup.get(key) != facts[key] for key in MODELS):
        log.warning(
            "%s: its answers are of other models than these, and do not count; to ask about these, "
            "move it away and run `tgo ask --compare`",
            folder,
        )
        return {}
    by_set: dict[str, list[tuple[str, str, str, float]]] = {}
    table = tables.read(str(answers))
    for number, row in table.records:
        if row is None:
            continue
        if row.get("preferred") not in _WON or not isinstance(row.get("question"), str):
            raise InputError(f"{table.where(number)}: is no answer about two images; remove it")
        name, _, key = row["question"].partition("/")
        told = (str(row.get("rater")), key, str(row.get("prompt")), _WON[row["preferred"]])
        by_set.setdefault(name, []).append(told)
    return {name: _figures(answers, int(facts["seed"])) for name, answers in by_set.items()}


def _figures(
    answers: list[tuple[str, str, str, float]], seed: int
) -> dict[str, float | int | None]:
    who, pairs, prompts, won = zip(*answers, strict=True)
    share = stats.bootstrap_mean(stats.mean_by_prompt(np.array(won), prompts), seed=seed)
    alpha = raters.alpha(zip(who, pairs, won, strict=True), "nominal")
    return {
        "win_rate": round(share.value, 6),
        "win_low": round(share.low, 6),
        "win_high": round(share.high, 6),
        "answers": len(answers),
        "pairs": len(set(pairs)),
        "raters": len(set(who)),
        "alpha": None if alpha is None else round(alpha, 6),
    }
