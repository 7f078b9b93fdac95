"""Does it learn? Settings are chosen on the validation prompts, then the test sets are read once.

    python -m benchmarks.claims choose    every row of CANDIDATES, judged by the feedback reward
                                          on the validation prompts (the gold judge is not asked)
    python -m benchmarks.claims test      params.yaml as it is, and each of RIVALS beside it with
                                          the same data and updates, over three training seeds, on
                                          the three test sets

Needs the shards of `dvc repro label`. Every training and evaluation resumes; what is finished is
kept, so a killed run is continued by the same command.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline import evaluate, label, layout
from pipeline.atomic import write_json
from pipeline.settings import Settings, load
from trainer import train

ROOT = Path("data/claims")
SEEDS = (0, 1, 2)
# what differs from params.yaml; the settings of a rival are chosen like ours, by `choose`
RIVALS: dict[str, dict[str, Any]] = {"sft": {"train.objective": "sft"}}
CANDIDATES: tuple[dict[str, Any], ...] = (
    *({"train.learning_rate": rate} for rate in (3e-5, 1e-4, 3e-4, 1e-3)),
    *({"train.objective": "sft", "train.learning_rate": rate} for rate in (3e-5, 1e-4, 3e-4, 1e-3)),
    *({"train.learning_rate": 3e-4, "train.beta": beta} for beta in (0.2, 5.0)),
    {"train.learning_rate": 3e-4, "label.confidence": 0.0},
    {"train.learning_rate": 3e-4, "label.percentile": 20.0},
    {"train.learning_rate": 3e-4, "label.percentile": 80.0},
)


def changed(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """Settings with dotted keys changed, checked again as a whole."""
    values = settings.model_dump()
    for key, value in changes.items():
        group, name = key.split(".")
        values[group][name] = value
    return Settings.model_validate(values)


def trained(settings: Settings, name: str) -> Path:
    """The model folder of a run with these settings, trained now unless it is there."""
    place = ROOT / name
    labelled = place / "labelled"
    label.label_folder(layout.SCORED, labelled, settings.label, seed=settings.seed)
    return train.run(
        settings,
        labelled=labelled,
        checkpoints=place / "checkpoints",
        tuned=place / "model",
        log=place / "train_log.jsonl",
    )


def choose(settings: Settings) -> None:
    """The gain of the feedback reward on the validation prompts, for every candidate."""
    reward = settings.label.reward
    rows = []
    for changes in CANDIDATES:
        name = "choose-" + "-".join(
            f"{key.split('.')[1]}_{value}" for key, value in changes.items()
        )
        run = changed(settings, changes | {"evaluate.judge": None})
        found = evaluate.compare(run, trained(run, name), name, "validation")["validation"][reward]
        rows.append({"changes": changes, **found})
        write_json(layout.REPORTS / "choose.json", rows)
        print(json.dumps(rows[-1]), flush=True)


def test(settings: Settings) -> None:
    """Ours and each rival on the test sets, seed by seed."""
    results: dict[str, Any] = {}
    for objective, changes in {settings.train.objective: {}, **RIVALS}.items():
        for seed in SEEDS:
            name = f"{objective}-{seed}"
            run = changed(settings, {**changes, "train.seed": seed})
            results[name] = evaluate.compare(run, trained(run, name), name, "tests")
            write_json(layout.REPORTS / "claims.json", results)
    _print(results, settings)


def _print(results: Mapping[str, Any], settings: Settings) -> None:
    for score in (settings.label.reward, evaluate.GOLD):
        for set_name in settings.prompts.tests:
            for name, metrics in results.items():
                row = metrics[set_name].get(score)
                if row:
                    interval = f"{row['low']:+.4f} to {row['high']:+.4f}"
                    print(f"{score:12} {set_name:8} {name:8} {row['difference']:+.4f} ({interval})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("choose", "test"))
    what = parser.parse_args().what
    (choose if what == "choose" else test)(load(layout.PARAMS))


if __name__ == "__main__":
    main()
