"""What the report reads: the files of all earlier stages, checked to belong together.

Nothing here needs the images of stage one: with labels, evaluated images and the files of reports/
(what `dvc pull` brings) the page can be made again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tgo.pipeline import layout
from tgo.pipeline.config.settings import Settings
from tgo.pipeline.errors import InputError
from tgo.pipeline.evaluation import pairs_table
from tgo.pipeline.evaluation.evaluate import folder
from tgo.pipeline.evaluation.paired_images import Pairs
from tgo.pipeline.storage import label_record, origin, results, shards, trained_on
from tgo.pipeline.storage.results import FACTS
from tgo.pipeline.training_log import sample_strips
from tgo.pipeline.wording import harmless


@dataclass(frozen=True)
class RunFiles:
    """Everything the page shows.

    Attributes:
        metrics: reports/evaluation.json.
        threshold: data/labelled/threshold.json.
        log: lines of reports/train_log.jsonl.
        labelled: (feedback score, label) of every training image, ``[M]`` each.
        models: each reward model's description, as stored with its scores.
        pairs: base and tuned images of each test set.
    """

    settings: Settings
    metrics: dict[str, Any]
    threshold: dict[str, Any]
    log: list[dict[str, Any]]
    labelled: tuple[NDArray[np.float64], NDArray[np.int8]]
    models: dict[str, dict[str, Any]]
    pairs: dict[str, Pairs]

    @property
    def facts(self) -> dict[str, Any]:
        """Which two models were compared, and how."""
        return dict(self.metrics[FACTS])

    @property
    def judged(self) -> bool:
        """Whether a judge was asked about the images."""
        return all(results.TRUTH in pairs.base for pairs in self.pairs.values())

    def spread(self, score: str) -> float:
        """Standard deviation of a score over the base model's test images."""
        return float(np.concatenate([pairs.base[score] for pairs in self.pairs.values()]).std())


def read(settings: Settings) -> RunFiles:
    """Read everything that the page tells of.

    Args:
        settings: those of the run; its files must have been made with them.

    Returns:
        Evaluation, threshold, training log, labelled images, models and image pairs.

    Raises:
        InputError: a file is missing or damaged, was made with other settings, or is of another
            model than the rest; the line names it and the stage to run.
    """
    metrics = results.evaluation()
    threshold = _labels(settings)
    trained_on.check(layout.TUNED, settings.train, layout.THRESHOLD)
    log = results.train_log()
    _check_settings(settings, metrics)
    facts, pairs = pairs_table.read(layout.PAIRS)
    if facts != metrics[FACTS]:
        raise _mixed(layout.PAIRS, layout.EVALUATION)
    models = _check_images(metrics[FACTS], list(pairs))
    check_samples(metrics[FACTS])
    sets = list(settings.prompts.tests)  # in their order, which JSON does not keep
    metrics = {name: metrics[name] for name in sets} | {FACTS: metrics[FACTS]}
    pairs = {
        name: replace(pairs[name], prompts=[harmless(text) for text in pairs[name].prompts])
        for name in sets
    }
    return RunFiles(settings, metrics, threshold, log, _labelled(layout.LABELLED), models, pairs)


def evaluated(set_name: str) -> tuple[Path, Path]:
    """Where the base and the tuned model's images of a test set lie."""
    return folder("tests", "base", set_name), folder("tests", "tuned", set_name)


def check_samples(facts: Mapping[str, Any]) -> None:
    """InputError where the sample images were drawn on the way to another tuned model."""
    of = sample_strips.result(layout.SAMPLES)
    if of is not None and of != facts["tuned_sha256"]:
        raise InputError(
            f"{layout.SAMPLES}: shows the training of another model than {layout.EVALUATION} "
            "compares; run `tgo train` and `tgo evaluate` (or `dvc checkout`)"
        )


def _check_images(facts: Mapping[str, Any], sets: list[str]) -> dict[str, dict[str, Any]]:
    """The reward models' descriptions; InputError where an image is of another model."""
    models: dict[str, dict[str, Any]] = {}
    for name in sets:
        for place, key in zip(evaluated(name), ("base_sha256", "tuned_sha256"), strict=True):
            for path in shards.shard_paths(place):
                metadata = shards.read_metadata(path)
                if origin.model_of(metadata) != facts[key]:
                    raise _mixed(path, layout.EVALUATION)
                models |= metadata["tgo.rewards"]
    return models


def _mixed(path: Path, other: Path) -> InputError:
    return InputError(
        f"{path}: is of another model than {other}; run `tgo evaluate` again (or `dvc checkout`)"
    )


def _labels(settings: Settings) -> dict[str, Any]:
    """threshold.json of labels that are whole and made with these settings.

    Where stage one's images are not here (`dvc pull` brings none), labels cannot be held against
    them: the record and the scalar it names are checked alone.
    """
    if shards.present(layout.SCORED):
        return label_record.check_labels(layout.SCORED, layout.LABELLED, settings.label)
    record = label_record.read(layout.THRESHOLD)
    if record["reward"] != settings.label.name:
        raise InputError(
            f"{layout.THRESHOLD}: made for {record['reward']}, but label.reward is "
            f"{settings.label.name}; run `tgo label` and what follows (or `dvc repro`)"
        )
    return record


def _check_settings(settings: Settings, metrics: Mapping[str, Any]) -> None:
    wanted = {name: set(settings.rewards) for name in settings.prompts.tests}
    there = {name: set(rows) for name, rows in metrics.items() if name != FACTS}
    if any(name not in there or not rewards <= there[name] for name, rewards in wanted.items()):
        raise InputError(
            f"{layout.EVALUATION}: lacks a test set or reward model of these settings; "
            "run `tgo evaluate` again"
        )
    for key in ("prompts", "images_per_prompt"):
        wanted_of, made_of = getattr(settings.evaluate, key), metrics[FACTS].get(key)
        if made_of not in (None, wanted_of):
            raise InputError(
                f"{layout.EVALUATION}: was made with evaluate.{key} = {made_of}, and params.yaml "
                f"says {wanted_of}; write there what it was, or run `tgo evaluate` again"
            )


def _labelled(labelled: Path) -> tuple[NDArray[np.float64], NDArray[np.int8]]:
    table = pa.concat_tables(
        shards.read_shard(path, ["score", "label"]) for path in shards.shard_paths(labelled)
    )
    return table["score"].to_numpy().astype(float), table["label"].to_numpy()
