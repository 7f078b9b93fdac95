"""Very many tiny samples through the three stages: memory, open files, speed at start and end.

    python -m tests.faults.many_samples --images 1000000

A random generator of 16 pixels and one random reward model, one sampling step without guidance,
shards of 4,096 images. While each stage runs, its memory and open files are read every second; of
stage one the shards' times say how fast the first and the last tenth were made, of training the
log says so.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from tests import workspace
from tests.models import write_random_diffusion
from tests.rewards.miniatures import write_random_panel
from tests.workspace import TGO, change
from tgo.pipeline import layout
from tgo.pipeline.storage import shards

STEPS_PER_IMAGE = 1 / 256


class Reading(NamedTuple):
    """Of a process at one moment: megabytes that it holds, and open files."""

    memory: float
    files: int


def read(pid: int) -> Reading | None:
    """None once the process has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        files = len(os.listdir(f"/proc/{pid}/fd"))
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    found = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")]
    return Reading(int(found[0]) / 1024, files) if found else None


def watched(folder: Path, *arguments: str) -> tuple[float, list[Reading]]:
    """Seconds of a command that must succeed, and what was read of it every second."""
    began = time.monotonic()
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            [TGO, "-q", *arguments], cwd=folder, stdout=output, stderr=subprocess.STDOUT
        )
    readings = []
    while process.poll() is None:
        if found := read(process.pid):
            readings.append(found)
        time.sleep(1)
    assert process.returncode == 0, (folder / "output").read_text()[-1000:]
    return time.monotonic() - began, readings


def told(stage: str, seconds: float, readings: list[Reading], speed: str) -> str:
    """A row of the table: memory and files when a tenth was done, and at the end."""
    early, late = readings[len(readings) // 10], readings[-1]
    return (
        f"| {stage} | {seconds:.0f} s | {early.memory:.0f} to {late.memory:.0f} MB | "
        f"{early.files} to {late.files} | {speed} |"
    )


def speed_of_shards(folder: Path) -> str:
    """How long a shard took at the start and at the end."""
    times = [path.stat().st_mtime for path in shards.present(folder)]
    tenth = max(len(times) // 10, 1)
    first = (times[tenth] - times[0]) / tenth
    last = (times[-1] - times[-1 - tenth]) / tenth
    return f"{first:.2f} s a shard in the first tenth, {last:.2f} s in the last"


def speed_of_training(log: Path) -> str:
    """Images a second at the start and at the end."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    rates = [line["images_per_second"] for line in lines]
    tenth = max(len(rates) // 10, 1)
    first, last = (sum(part) / len(part) for part in (rates[1 : tenth + 1], rates[-tenth:]))
    return f"{first:.0f} images/s in the first tenth, {last:.0f} in the last"


def prepare(root: Path, images: int) -> Path:
    """A project with tiny models and prompts for so many images, four each."""
    rewards = write_random_panel(root / "rewards")
    generator = write_random_diffusion(root / "generator")
    project = root / "project"
    project.mkdir()
    workspace.fill(project, generator, {"clip": rewards["clip"]})
    prompts = images // 4
    lines = (f'{{"id": "p{n:07d}", "prompt": "a red circle {n}"}}\n' for n in range(prompts))
    (project / "data/prompts/train.jsonl").write_text("".join(lines))
    score = {"prompts": prompts, "images_per_prompt": 4, "batch_size": 256, "rows_per_shard": 4096}
    steps = round(images * STEPS_PER_IMAGE)
    train: dict[str, object] = {
        "batch_size": 256,
        "steps": steps,
        "draws": 1,
        "checkpoint_every": steps // 4,
        "log_every": max(steps // 100, 1),
        "samples": None,
        "loggers": [],
    }
    sampler = {"steps": 1, "guidance_scale": 1.0}
    change(project, {"generator": sampler, "score": score, "train": train})
    return project


def main() -> None:
    """The command line; see the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--root", type=Path, help="goes on in this folder; a temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = options.root or Path(temporary)
        project = root / "project"
        if not project.exists():
            project = prepare(root, options.images)
        print("| stage | took | memory | open files | speed |\n| --- | --- | --- | --- | --- |")
        for stage in ("score", "label", "train"):
            seconds, readings = watched(project, stage)
            speed = {
                "score": lambda: speed_of_shards(project / layout.SCORED),
                "label": lambda: speed_of_shards(project / layout.LABELLED),
                "train": lambda: speed_of_training(project / "reports/train_timing.jsonl"),
            }[stage]()
            print(told(stage, seconds, readings, speed), flush=True)


if __name__ == "__main__":
    main()
