"""All stages at published sizes on a CPU: what each took and held, beside what `tgo plan` said.

    python -m benchmarks.rehearsal FOLDER              SD 1.5 (make rehearsal): under half an hour
    python -m benchmarks.rehearsal FOLDER --size sdxl
    python -m benchmarks.rehearsal FOLDER --size tiny  with the world's reward models: a minute

Makes a project in that folder, with a generator and the five reward models of their published sizes
in the published formats. Weights are random, so scores mean nothing; whether everything loads, runs
and fits does. Few and small images keep it short. bfloat16 halves the memory, but a CPU without
AVX512-BF16 or AMX computes a hundred times slower in it. Every stage is the command itself, in a
process of its own; its memory is the most that it held (`ru_maxrss`). Run again, it goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import generator_sizes, reward_sizes
from tgo.pipeline.layout import PARAMS
from tgo.pipeline.tools import init_project, preset
from tgo.pipeline.wording import size

STAGES = ("score", "label", "train", "evaluate", "report")
TGO = Path(sys.executable).with_name("tgo")


class Case(NamedTuple):
    """What is rehearsed: 24 GB hold SDXL in float32 beside the reward models only in 8 bits."""

    family: str
    resolution: int
    quantization: str | None = None


CASES = {
    "tiny": Case("diffusion", 16),
    "sd15": Case("diffusion", 128),
    "sdxl": Case("sdxl", 128, "int8"),
}


class Taken(NamedTuple):
    """What a stage took: seconds, and bytes that it held at most."""

    seconds: float
    peak: int


def settings_of(options: argparse.Namespace) -> dict[str, dict[str, Any] | str | int]:
    """What differs from params.yaml: the models, few small images, adapters."""
    case = CASES[options.size]
    rewards = {name: f"rewards/{name}" for name in reward_sizes.NAMES}
    if options.size == "tiny":
        world = init_project.SHIPPED / reward_sizes.WORLD
        rewards = {name: str(world / name) for name in reward_sizes.NAMES}
    return {
        "threads": options.threads,
        "device": "cpu",
        "prompts": {"tests": {"seen": "data/prompts/test_seen.jsonl"}},
        "generator": {
            "family": case.family,
            "model": "model",
            "resolution": case.resolution,
            "steps": 2,
            "dtype": options.dtype,
            "quantization": case.quantization,
        },
        "rewards": rewards,
        "score": {
            "prompts": 2,
            "images_per_prompt": 2,
            "batch_size": 2,
            "rows_per_shard": 4,
        },
        "train": {
            "lora": {"rank": 4, "alpha": 4, "targets": None},
            "precision": options.dtype,
            "gradient_checkpointing": options.size == "sdxl",
            "draws": 1,
            "steps": 2,
            "batch_size": 4,
            "gradient_accumulation_steps": 2,
            "checkpoint_every": 2,
            "log_every": 1,
            "samples": {"prompts": 1, "every": 2},
        },
        "evaluate": {"prompts": 2, "images_per_prompt": 1, "judge": None},
        "report": {"gallery": 2},
    }


def make_project(options: argparse.Namespace) -> None:
    """A project in the folder, with its models and settings, as the working directory."""
    folder: Path = options.folder.absolute()
    if not (folder / PARAMS).exists():
        init_project.create(folder, world=False)
    writer = get_context("spawn").Process(target=write_models, args=(options.size, folder))
    writer.start()  # a process of its own: what it holds is no stage's
    writer.join()
    if writer.exitcode:
        raise SystemExit("rehearsal: the models were not written")
    os.chdir(folder)
    preset.edit(PARAMS, lambda values: _update(values, settings_of(options)), origin="rehearsal")


def _update(values: Any, changes: Mapping[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, Mapping) and key != "rewards":
            values[key].update(value)
        else:
            values[key] = value


def write_models(name: str, folder: Path) -> None:
    """The generator and, unless tiny, the reward models, where they are not there yet."""
    if not (folder / "model/model_index.json").exists():
        generator_sizes.write_model(generator_sizes.SIZES[name], folder / "model")
    if name != "tiny" and not (folder / "rewards/aesthetic").exists():
        reward_sizes.write("full", folder / "rewards")


def run(stage: str) -> Taken:
    """A stage in a process of its own.

    Args:
        stage: a command of `tgo`.

    Returns:
        What it took.

    Raises:
        SystemExit: it failed.
    """
    print(f"tgo {stage}", flush=True)
    begin = time.perf_counter()
    process = subprocess.Popen([TGO, stage])
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"rehearsal: `tgo {stage}` failed")
    return Taken(time.perf_counter() - begin, usage.ru_maxrss * 1024)


def planned() -> dict[str, list[str]]:
    """What `tgo plan` says, by subject."""
    told = subprocess.run([TGO, "plan", "--json"], capture_output=True, text=True, check=False)
    found: dict[str, list[str]] = json.loads(told.stdout)
    return found


def table(taken: Mapping[str, Taken], plan: Mapping[str, list[str]]) -> str:
    """The figures as Markdown, and below them what was planned."""
    rows = ["| stage | took | held at most |", "| --- | --- | --- |"]
    rows += [
        f"| {stage} | {found.seconds:,.0f} s | {size(found.peak)} |"
        for stage, found in taken.items()
    ]
    rows += ["", "tgo plan:"]
    return "\n".join(rows + [f"{name:<10} {text}" for name in plan for text in plan[name]])


def main() -> None:
    """The command line; see the module."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="new, empty, or of an earlier rehearsal")
    parser.add_argument("--size", choices=CASES, default="sd15")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    make_project(options)
    plan = planned()
    print(table({stage: run(stage) for stage in STAGES}, plan))


if __name__ == "__main__":
    main()
