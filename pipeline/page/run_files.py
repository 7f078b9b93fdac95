"""What the report reads: the files of all earlier stages, checked to belong together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tgo.pipeline import layout
from tgo.pipeline.config.settings import Settings
from tgo.pipeline.errors import InputError
from tgo.pipeline.evaluation.evaluate import folder
from tgo.pipeline.evaluation.paired_images import Pairs, read_pairs
from tgo.pipeline.storage import label_record, results, shards
from tgo.pipeline.storage.results import FACTS


@dataclass(frozen=True)
class RunFiles:
    """Everything the page shows.

    Attributes:
        metrics: reports/metrics.json.
        threshold: data/labelled/threshold.json.
        log: lines of reports/train_log.jsonl.
        scores: of the training images that succeeded, float64 ``[N]`` by reward model.
        labelled: (feedback score, label) of every training image, ``[M]`` each.
        models: each reward model's description, as stored with its scores.
        pairs: base and tuned images of each test set.
    """

    settings: Settings
    metrics: dict[str, Any]
    threshold: dict[str, Any]
    log: list[dict[str, Any]]
    scores: dict[str, NDArray[np.float64]]
    labelled: tuple[NDArray[np.float64], NDArray[np.int8]]
    models: dict[str, dict[str, Any]]
    pairs: dict[str, Pairs]

    def spread(self, reward: str) -> float:
        """Standard deviation of a reward model's scores over the base model's test images."""
        return float(np.concatenate([pairs.base[reward] for pairs in self.pairs.values()]).std())


def read(settings: Settings) -> RunFiles:
    """Read everything.

    Raises:
        InputError: a file is missing or damaged, or was made with other settings; the line names
            it and the stage to run.
    """
    metrics = results.metrics()
    threshold = label_record.check_labels(layout.SCORED, layout.LABELLED, settings.label)
    _check(settings, metrics)
    rewards: list[str] = list(settings.rewards)
    return RunFiles(
        settings,
        metrics,
        threshold,
        results.train_log(),
        _scores(layout.SCORED, list(settings.label.reward) if settings.imported else rewards),
        _labelled(layout.LABELLED),
        _models(settings),
        {name: read_pairs(*evaluated(name), rewards) for name in settings.prompts.tests},
    )


def _models(settings: Settings) -> dict[str, dict[str, Any]]:
    """What made the scores that are shown: imported images have none but their ratings."""
    folders = [layout.SCORED]
    if settings.imported:
        folders.append(evaluated(next(iter(settings.prompts.tests)))[0])
    models: dict[str, dict[str, Any]] = {}
    for place in folders:
        models |= shards.read_metadata(shards.shard_paths(place)[0])["tgo.rewards"]
    return models


def evaluated(set_name: str) -> tuple[Path, Path]:
    """Where the base and the tuned model's images of a test set lie."""
    return folder("tests", "base", set_name), folder("tests", "tuned", set_name)


def _check(settings: Settings, metrics: dict[str, Any]) -> None:
    wanted = {name: set(settings.rewards) for name in settings.prompts.tests}
    there = {name: set(rows) for name, rows in metrics.items() if name != FACTS}
    if any(not rewards <= there.get(name, set()) for name, rewards in wanted.items()):
        raise InputError(
            f"{layout.METRICS}: lacks a test set or reward model of these settings; "
            "run `tgo evaluate` again"
        )


def _scores(scored: Path, rewards: list[str]) -> dict[str, NDArray[np.float64]]:
    table = pa.concat_tables(
        shards.read_shard(path, ["status", *rewards]) for path in shards.shard_paths(scored)
    )
    kept = np.array([status == "ok" for status in table["status"].to_pylist()])
    return {name: np.asarray(table[name].to_numpy(), float)[kept] for name in rewards}


def _labelled(labelled: Path) -> tuple[NDArray[np.float64], NDArray[np.int8]]:
    table = pa.concat_tables(
        shards.read_shard(path, ["score", "label"]) for path in shards.shard_paths(labelled)
    )
    return table["score"].to_numpy().astype(float), table["label"].to_numpy()
