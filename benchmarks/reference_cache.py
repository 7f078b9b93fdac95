"""What keeping the reference's answers saves, and what it costs (`train.reference_cache`).

    python -m benchmarks.reference_cache            needs the shards of `dvc repro label`

Speed: updates with fresh corruptions and with K fixed ones, in turns in one run, medians. Result:
one training each with otherwise equal settings, compared on the validation prompts by the feedback
reward (with ``--updates N`` shorter ones; ``--no-result`` leaves them out). All resumes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pipeline import layout
from pipeline.config.settings import Settings, load
from pipeline.generators import load_generator
from pipeline.reporting import evaluate
from trainer import train
from trainer.distributed import World
from trainer.learner import Learner
from trainer.objectives import load_objective
from trainer.reference_cache import load_cache
from trainer.rows import LabelledRows
from trainer.stream import Stream

ROOT = Path("data/benchmark/reference_cache")


def with_cache(settings: Settings, count: int | None, updates: int | None) -> Settings:
    """The settings with K fixed corruptions, or fresh ones for None."""
    change: dict[str, Any] = {"reference_cache": count, "loggers": [], "samples": None}
    if updates is not None:
        change["updates"] = updates
    return settings.model_copy(update={"train": settings.train.model_copy(update=change)})


def updater(settings: Settings, references: Path) -> tuple[Callable[[int], None], float]:
    """What does n updates, and the seconds it took to fill the cache."""
    objective = load_objective(settings.train)
    rows = LabelledRows(
        layout.SCORED,
        layout.LABELLED,
        layout.EMBEDDINGS,
        rows=objective.rows,
        signal=objective.signal,
    )
    family = load_generator(settings.generator)
    cache = load_cache(references, rows, family, objective, settings.train)
    device = torch.device("cpu")
    learner = Learner(
        family, objective, settings.train, rows.unconditional, World(device), cache=cache
    )
    begin = time.perf_counter()
    if cache is not None:
        cache.fill(learner.measure)
    filled = time.perf_counter() - begin
    batches = Stream(rows, seed=0, batch_size=settings.train.batch_size).batches()
    done = 0

    def update(count: int) -> None:
        nonlocal done
        for _ in range(count):
            done += 1
            learner.update(done, next(batches))

    return update, filled


def speed(settings: Settings, count: int, updates: int, repeats: int) -> dict[str, Any]:
    """Images/s with and without, and how many updates pay for the filling."""
    with tempfile.TemporaryDirectory() as folder:
        fresh, _ = updater(with_cache(settings, None, None), Path(folder))
        kept, filled = updater(with_cache(settings, count, None), Path(folder))
        took: dict[str, list[float]] = {"fresh": [], "kept": []}
        for turn in range(repeats + 1):
            for name, contender in (("fresh", fresh), ("kept", kept)):
                begin = time.perf_counter()
                contender(updates)
                if turn:
                    took[name].append((time.perf_counter() - begin) / updates)
    seconds = {name: statistics.median(values) for name, values in took.items()}
    saved = seconds["fresh"] - seconds["kept"]
    return {
        "images_per_s": {n: settings.train.batch_size / each for n, each in seconds.items()},
        "faster_by": seconds["fresh"] / seconds["kept"],
        "seconds_to_fill": filled,
        "updates_that_pay_for_it": filled / saved if saved > 0 else None,
    }


def result(settings: Settings, count: int | None, updates: int | None) -> dict[str, float]:
    """Gain of the feedback reward on the validation prompts after one training."""
    name = "fresh" if count is None else f"kept-{count}"
    place = ROOT / name
    chosen = with_cache(settings, count, updates)
    train.run(
        chosen,
        checkpoints=place / "checkpoints",
        tuned=place / "tuned",
        log=place / "train_log.jsonl",
        samples=place / "samples",
    )
    metrics = evaluate.compare(chosen, place / "tuned", f"reference-{name}", "validation")
    row = metrics["validation"][settings.label.leading]
    return {key: row[key] for key in ("difference", "low", "high", "win_rate")}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=4, help="K, corruptions an image")
    parser.add_argument("--turn", type=int, default=5, help="updates of each in a turn")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--updates", type=int, help="of the trainings; left out: as the settings")
    parser.add_argument("--no-result", action="store_true")
    options = parser.parse_args()
    settings = load(layout.PARAMS)
    torch.set_num_threads(settings.threads)
    told: dict[str, Any] = speed(settings, options.count, options.turn, options.repeats)
    if not options.no_result:
        told["gain"] = {
            "fresh": result(settings, None, options.updates),
            f"kept, K = {options.count}": result(settings, options.count, options.updates),
        }
    print(json.dumps(told, indent=2))


if __name__ == "__main__":
    main()
