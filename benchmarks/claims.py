"""Does it learn? Settings are chosen on the validation prompts, then the test sets are read once.

    python -m benchmarks.claims choose    every row of CANDIDATES, judged by the feedback reward
                                          on the validation prompts (the gold judge is not asked)
    python -m benchmarks.claims test      params.yaml as it is, and each of RIVALS beside it with
                                          the same data and steps, over three training seeds, on
                                          the three test sets

Needs the shards of `dvc repro label`. Every training and evaluation resumes; what is finished is
kept, so a killed run is continued by the same command.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from tgo.pipeline import layout
from tgo.pipeline.config.settings import Settings, load
from tgo.pipeline.evaluation import evaluate
from tgo.pipeline.labelling import label
from tgo.pipeline.storage.atomic import write_json
from tgo.trainer import train
from tgo.trainer.loop import CollapsedError
from tgo.trainer.paths import Paths

from benchmarks.changes import changed

ROOT = Path("data/claims")
SEEDS = (0, 1, 2)
# all of every test set, twice what the stage looks at: gold accuracy needs the narrower intervals
TEST = {"evaluate.prompts": 256}


def _labelled(**label: Any) -> dict[str, Any]:
    return {f"label.{key}": value for key, value in label.items()}


def _tgo(beta: float, rate: float, **label: Any) -> dict[str, Any]:
    return {"train.beta": beta, "train.learning_rate": rate, **_labelled(**label)}


def _sft(*rates: float, **label: Any) -> list[dict[str, Any]]:
    return [
        {"train.objective": "sft", "train.learning_rate": rate, **_labelled(**label)}
        for rate in rates
    ]


CANDIDATES: dict[str, tuple[dict[str, Any], ...]] = {
    "diffusion": (
        *(_tgo(1.0, rate) for rate in (1e-4, 3e-4, 1e-3)),
        *(_tgo(beta, 1e-4) for beta in (0.05, 0.2, 5.0)),
        *(_tgo(0.2, rate) for rate in (3e-5, 3e-4)),
        _tgo(1.0, 1e-4, confidence=0.0),
        *(_tgo(1.0, 1e-4, percentile=percentile) for percentile in (20.0, 80.0)),
        *_sft(1e-4, 3e-4, 1e-3, 3e-3),
    ),
    "amused": (
        *(_tgo(10.0, rate, scope="prompt") for rate in (3e-5, 1e-4, 3e-4)),
        *(_tgo(beta, 1e-4, scope="prompt") for beta in (3.0, 30.0)),
        *(_tgo(10.0, rate) for rate in (3e-5, 1e-4, 3e-4)),
        *(_tgo(beta, 1e-4) for beta in (1.0, 3.0, 30.0)),
        *_sft(1e-4, 3e-4, scope="prompt"),
        *_sft(3e-5, 1e-4, 3e-4, 1e-3),
    ),
}
"""By family: what differs from params.yaml."""
RIVALS: dict[str, dict[str, dict[str, Any]]] = {
    "diffusion": {"sft": _sft(1e-3)[0]},
}
"""By family: their settings are chosen like ours, by `choose`."""


def trained(settings: Settings, name: str) -> Path | None:
    """The model folder of a run with these settings, trained now unless it is there.

    None if it collapsed, which is a result like any other.
    """
    place = ROOT / name
    labelled = place / "labelled"
    label.label_folder(layout.SCORED, labelled, settings.label, seed=settings.seed)
    try:
        paths = Paths(
            labelled=labelled,
            checkpoints=place / "checkpoints",
            tuned=place / "model",
            log=place / "train_log.jsonl",
            samples=place / "samples",
        )
        return train.run(settings, paths)
    except CollapsedError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return None


def trained_all(runs: Mapping[str, Settings]) -> dict[str, Path | None]:
    """The models of several runs by name, two at a time with one thread each.

    On two cores and with networks this small that is faster than one after the other with two.
    """
    single = {name: settings.model_copy(update={"threads": 1}) for name, settings in runs.items()}
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(2, mp_context=spawn)
    try:
        folders = pool.map(trained, single.values(), single.keys())
        return dict(zip(single, folders, strict=True))
    finally:  # interrupted, what has not begun does not begin any more
        pool.shutdown(cancel_futures=True)


def choose(settings: Settings) -> None:
    """The gain of the feedback reward on the validation prompts, for every candidate."""
    reward = settings.label.leading
    names = {_name(changes): changes for changes in CANDIDATES[settings.generator.family]}
    runs = {name: changed(settings, changes) for name, changes in names.items()}
    rows = []
    for name, model in trained_all(runs).items():
        if model is None:
            found: dict[str, Any] = {"collapsed": True}
        else:
            found = evaluate.compare(runs[name], model, name, "validation")["validation"][reward]
        rows.append({"changes": names[name], **found})
        write_json(layout.REPORTS / "choose.json", rows)
        print(json.dumps(rows[-1]), flush=True)


def _name(changes: Mapping[str, Any]) -> str:
    parts = (f"{key.split('.')[1]}_{value}" for key, value in changes.items())
    return "-".join(("choose", *parts))


def test(settings: Settings) -> None:
    """Ours and each rival on the test sets, seed by seed."""
    contenders = {settings.train.objective: {}, **RIVALS.get(settings.generator.family, {})}
    runs = {
        f"{objective}-{seed}": changed(settings, {**TEST, **changes, "train.seed": seed})
        for objective, changes in contenders.items()
        for seed in SEEDS
    }
    results: dict[str, Any] = {}
    for name, model in trained_all(runs).items():
        if model is not None:
            results[name] = evaluate.compare(runs[name], model, name, "tests")
        write_json(layout.REPORTS / "claims.json", results)
    _print(results, settings)


def _print(results: Mapping[str, Any], settings: Settings) -> None:
    for score in (settings.label.leading, evaluate.GOLD):
        for set_name in settings.prompts.tests:
            for name, metrics in results.items():
                row = metrics[set_name].get(score)
                if row:
                    interval = f"{row['low']:+.4f} to {row['high']:+.4f}"
                    print(f"{score:12} {set_name:8} {name:8} {row['difference']:+.4f} ({interval})")


def main() -> None:
    """The command line; see the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("choose", "test"))
    what = parser.parse_args().what
    (choose if what == "choose" else test)(load(layout.PARAMS))


if __name__ == "__main__":
    main()
