"""Peak memory of each stage at real sizes, beside what `tgo plan` says of the same settings.

    python -m benchmarks.memory --folder /tmp/sizes                    every case, on this CPU
    python -m benchmarks.memory --folder /tmp/sizes --case sd15-train  one of them

Models and reward models of the published sizes with random weights are written below the folder
once (17 GB) and found there again. Every case runs in a process of its own, as the stage runs it:
models are loaded, images sampled, decoded and scored, or a model trained for two steps and written.
Measured is the most memory that the process held (`ru_maxrss`).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.changes import changed
from tgo.pipeline import layout
from tgo.pipeline.config import settings as params
from tgo.pipeline.config.settings import Settings

HALF = {"generator.dtype": "bfloat16"}
LORA = {"train.lora": {"rank": 16, "alpha": 16.0, "targets": None}}
BF16 = {"train.precision": "bfloat16"}
CHECKPOINTING = {"train.gradient_checkpointing": True}
MICRO = {"train.batch_size": 4, "train.gradient_accumulation_steps": 2}
SHARED = {
    "device": "cpu",
    "generator.resolution": 256,
    "generator.steps": 2,
    "generator.guidance_scale": 5.0,
    "score.prompts": 4,
    "score.images_per_prompt": 1,
    "score.batch_size": 4,
    "score.rows_per_shard": 4,
    "train.steps": 2,
    "train.draws": 1,
    "train.batch_size": 2,
    "train.samples": None,
    "train.loggers": [],
    "train.timesteps": {"draw": "family", "mean": 0.0, "std": 1.0, "snr_gamma": None},
    "train.checkpoint_every": 2,
    "evaluate.prompts": 4,
    "evaluate.images_per_prompt": 1,
}
FEW = ("pickscore", "clip")
ALL = ("pickscore", "hpsv2", "imagereward", "clip", "aesthetic")


class Case(NamedTuple):
    """A stage of a model under settings."""

    size: str
    stage: str
    changes: Mapping[str, Any] = {}
    rewards: Sequence[str] = FEW


CASES = {
    "sd15-score": Case("sd15", "score"),
    "sd15-score-512": Case("sd15", "score", {"generator.resolution": 512}),
    "sd15-score-all": Case("sd15", "score", HALF, ALL),
    "sd15-train": Case("sd15", "train"),
    "sd15-train-bf16": Case("sd15", "train", BF16),
    "sd15-train-lora": Case("sd15", "train", LORA),
    "sd15-train-lora-512": Case("sd15", "train", LORA | {"generator.resolution": 512}),
    "sd15-train-lora-bf16": Case("sd15", "train", LORA | BF16),
    "sd15-train-lora-checkpointing": Case("sd15", "train", LORA | CHECKPOINTING | MICRO),
    "sd15-train-checkpointing": Case("sd15", "train", CHECKPOINTING | MICRO),
    "sd15-train-adafactor": Case("sd15", "train", {"train.optimizer": "adafactor"}),
    "sd15-train-adamw8bit": Case("sd15", "train", {"train.optimizer": "adamw8bit"}),
    "sd15-train-int8": Case("sd15", "train", LORA | BF16 | {"generator.quantization": "int8"}),
    "sd15-evaluate": Case("sd15", "evaluate"),
    "sdxl-score": Case("sdxl", "score", HALF),
    "sdxl-score-fp32": Case("sdxl", "score", {}, ("clip",)),
    "sdxl-train-lora-bf16": Case("sdxl", "train", LORA | BF16 | CHECKPOINTING),
    "sdxl-train-int8": Case(
        "sdxl", "train", LORA | BF16 | CHECKPOINTING | {"generator.quantization": "int8"}
    ),
    "sdxl-train-lora": Case("sdxl", "train", LORA | CHECKPOINTING),
    "sdxl-evaluate": Case("sdxl", "evaluate", HALF, ("clip",)),
}


def settings_of(case: Case, folder: Path) -> Settings:
    """The settings of a case, with the models below `folder`."""
    shipped = params.load(layout.PARAMS).model_dump()
    shipped["rewards"] = {name: str(folder / "rewards" / name) for name in case.rewards}
    shipped["label"]["reward"] = "clip"
    shipped["generator"] |= {
        "model": str(folder / case.size),
        "family": "sdxl" if case.size == "sdxl" else "diffusion",
    }
    plain = params.validate(shipped, str(layout.PARAMS))
    told = SHARED | dict(case.changes)
    device = {key: value for key, value in told.items() if "." not in key}
    plain = plain.model_copy(update=device)
    return changed(plain, {key: value for key, value in told.items() if "." in key})


def write_models(folder: Path, size: str) -> None:
    """The model of a size and the five reward models, unless they are there."""
    from benchmarks import generator_sizes, reward_sizes

    rewards = folder / "rewards"
    if not (rewards / "aesthetic").exists():
        reward_sizes.write("full", rewards)
    if not (folder / size / "model_index.json").exists():
        generator_sizes.write_model(generator_sizes.SIZES[size], folder / size)


def score(settings: Settings, place: Path) -> None:
    """Stage one: one shard."""
    from tgo.pipeline.scoring import score

    os.chdir(place)
    score.run(settings)


def train(settings: Settings, place: Path) -> None:
    """Stage three: two steps on random rows."""
    from benchmarks.generator_sizes import SIZES
    from benchmarks.train_rows import write_rows
    from tgo.pipeline.tools import models
    from tgo.trainer import train
    from tgo.trainer.paths import Paths

    size = SIZES[Path(settings.generator.model).name]
    side = (models.side_of(settings.generator.resolution) or size.pixels) // 8
    rows = 2 * settings.train.batch_size
    write_rows(place, (4, side, side), size.conditions, rows, pixels=None)
    os.chdir(place)
    train.run(
        settings, Paths(Path("scored"), Path("embeddings"), Path("labelled"), Path("checkpoints"))
    )


def evaluate(settings: Settings, place: Path) -> None:
    """The evaluation's images: the base model's, then those of a model that was trained."""
    from tgo.pipeline.evaluation import evaluate

    os.chdir(place)
    layout.TUNED.parent.mkdir(parents=True)
    layout.TUNED.symlink_to(settings.generator.model)
    sets = evaluate.prompt_sets(settings, "tests")
    evaluate._generate(settings, {"base": None, "tuned": layout.TUNED}, sets, "tests")


STAGES: dict[str, Callable[[Settings, Path], None]] = {
    "score": score,
    "train": train,
    "evaluate": evaluate,
}


def run(name: str, folder: Path) -> None:
    """A case in this process."""
    case = CASES[name]
    settings = settings_of(case, folder)
    with tempfile.TemporaryDirectory() as place:
        sources = {entry.source for entry in settings.prompts.by_key().values()}
        for source in sources:
            copy = Path(place, source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(Path(source).read_bytes())
        STAGES[case.stage](settings, Path(place))
        os.chdir("/")


def measure(name: str, folder: Path) -> float | None:
    """Bytes that a case held at most, in a process of its own; None where it failed."""
    command = [sys.executable, "-m", "benchmarks.memory", "--folder", str(folder), "--inside", name]
    log = folder / f"{name}.log"
    with log.open("w") as out:
        done = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        print(f"{name}: ended with {done.returncode}; see {log}", file=sys.stderr)
        return None
    told = log.read_text().splitlines()[-1]
    return float(json.loads(told)["peak"])


def planned(name: str, folder: Path) -> float:
    """Bytes that `tgo plan` expects of a case."""
    from tgo.pipeline.tools import memory, models

    case = CASES[name]
    settings = settings_of(case, folder)
    cost = models.cost_of(settings)
    assert cost is not None
    return memory.peaks(settings, cost)[case.stage]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; see the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="where the models are written")
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--inside", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    folder = options.folder.resolve()
    if options.inside:
        run(options.inside, folder)
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"peak": used}))
        return
    found = {}
    for name in options.case:
        write_models(folder, CASES[name].size)
        expected, peak = planned(name, folder), measure(name, folder)
        found[name] = {"planned": expected, "measured": peak}
        ratio = "" if peak is None else f"{peak / 1e9:6.2f} GB measured, {expected / peak:.2f}"
        print(f"{name:<30} {expected / 1e9:6.2f} GB planned, {ratio}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
