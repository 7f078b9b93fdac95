"""Fresh against tracked noise: the same training twice, judged on the validation prompts.

    python -m benchmarks.tracked                     # after `dvc repro label`, with params.yaml
    python -m benchmarks.tracked --updates 100 --prompts 64 --seeds 0 1

Trains on the labelled shards with `train.noise` fresh and tracked, then compares each result with
the base model and the one with the other: same prompts, same seeds, mean over prompts with its
95 % interval. Runs lie below --work and go on where they were when started again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pipeline.config import settings
from pipeline.config.settings import Settings
from pipeline.reporting import evaluate
from trainer import train

FRESH, TRACKED = "fresh", "tracked"
SPLIT, SET = "validation", "validation"


def main() -> None:
    parser = argparse.ArgumentParser(description="Fresh against tracked noise.")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--updates", type=int, help="instead of train.updates")
    parser.add_argument("--prompts", type=int, help="instead of evaluate.prompts")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of training")
    parser.add_argument("--work", type=Path, default=Path("data/benchmark/tracked"))
    options = parser.parse_args()
    given = settings.load(options.params)
    if options.prompts:
        shown = given.evaluate.model_copy(update={"prompts": options.prompts})
        given = given.model_copy(update={"evaluate": shown})
    for seed in options.seeds:
        for kind in (FRESH, TRACKED):
            changes = {"noise": kind, "seed": seed, "samples": None, "loggers": []}
            if options.updates:
                changes["updates"] = options.updates
            _print(f"{kind} over base", _trained(given, changes, options.work, f"{kind}-{seed}"))
        between, _ = evaluate.compare_folders(
            *(evaluate.folder(SPLIT, f"{kind}-{seed}", SET) for kind in (FRESH, TRACKED)),
            list(given.rewards),
            None,
            given.seed,
        )
        _print(f"seed {seed}: tracked over fresh", between)


def _trained(given: Settings, changes: dict[str, Any], work: Path, name: str) -> dict[str, Any]:
    """Train with these settings; what the result gains over the base model, by reward model."""
    folder = work / name
    chosen = given.model_copy(update={"train": given.train.model_copy(update=changes)})
    tuned = train.run(
        chosen,
        checkpoints=folder / "checkpoints",
        tuned=folder / "tuned",
        log=folder / "train_log.jsonl",
        samples=folder / "samples",
    )
    found: dict[str, Any] = evaluate.compare(chosen, tuned, name, SPLIT)[SET]
    return found


def _print(title: str, metrics: dict[str, Any]) -> None:
    for reward, row in metrics.items():
        interval = f"{row['difference']:+.4f} ({row['low']:+.4f} to {row['high']:+.4f})"
        print(f"{title:28}{reward:14}{interval}  win rate {row['win_rate']:.1%}", flush=True)


if __name__ == "__main__":
    main()
