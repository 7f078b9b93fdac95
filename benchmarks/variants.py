"""What an option of training changes: with it and without it, on the validation prompts.

    python -m benchmarks.variants kept epoch --seeds 0 1 2       after `dvc repro label`

Trains with params.yaml as it is and with each option named, then compares each result with the base
model, and each option with the plain run of its seed: same prompts, same noise, mean over prompts
with its 95 % interval. Options of equal cost alone, so that a difference is the option's. Runs lie
in data/claims and go on where they were when started again.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from tgo.pipeline import layout
from tgo.pipeline.config.settings import load
from tgo.pipeline.evaluation import evaluate
from tgo.pipeline.storage.atomic import write_json

from benchmarks.changes import changed
from benchmarks.claims import trained_all

VARIANTS: dict[str, dict[str, Any]] = {
    "kept": {"train.reference_cache": 4},
    "epoch": {"train.reference": "epoch"},
}
PLAIN, SET = "plain", "validation"


def main() -> None:
    """The command line; see the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("variants", nargs="+", choices=VARIANTS)
    parser.add_argument("--steps", type=int, help="instead of train.steps")
    parser.add_argument("--prompts", type=int, help="instead of evaluate.prompts")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of training")
    options = parser.parse_args()
    given = {"train.steps": options.steps, "evaluate.prompts": options.prompts}
    settings = changed(
        load(layout.PARAMS), {key: value for key, value in given.items() if value is not None}
    )
    runs = {
        _name(variant, seed): changed(
            settings,
            {"train.seed": seed, "train.samples": None, "train.loggers": []}
            | VARIANTS.get(variant, {}),
        )
        for seed in options.seeds
        for variant in (PLAIN, *options.variants)
    }
    found: dict[str, Any] = {}
    for name, model in trained_all(runs).items():
        if model is None:
            raise SystemExit(f"{name}: collapsed, so there is nothing to compare")
        found[f"{name} over base"] = evaluate.compare(runs[name], model, name, SET)[SET]
    for seed in options.seeds:
        for variant in options.variants:
            names = (_name(PLAIN, seed), _name(variant, seed))
            folders = (evaluate.folder(SET, name, SET) for name in names)
            rewards = list(settings.rewards)
            between, _ = evaluate.compare_folders(*folders, rewards, None, settings.seed)
            found[f"{names[1]} over {PLAIN}"] = between
    write_json(layout.REPORTS / "variants.json", found)
    print(json.dumps(found, indent=2))


def _name(variant: str, seed: int) -> str:
    return f"variant-{variant}-{seed}"


if __name__ == "__main__":
    main()
