"""A working directory with tiny models, prompts and settings, for runs of the real `tgo`."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tests.settings import PARAMS, merge

ROOT = Path(__file__).parents[1]
TGO = Path(sys.executable).with_name("tgo")
SMALL: dict[str, Any] = {
    "threads": 1,
    "device": "cpu",
    "generator": {"steps": 2},
    "score": {"prompts": 10, "images_per_prompt": 2, "batch_size": 4, "rows_per_shard": 6},
    "label": {"reward": "clip"},
    "train": {"batch_size": 4, "steps": 6, "checkpoint_every": 2, "log_every": 2},
    "evaluate": {"prompts": 4, "images_per_prompt": 1, "judge": None},
    "report": {"gallery": 2},
}


def fill(folder: Path, generator: Path | str, rewards: Mapping[str, str]) -> Path:
    """Write prompts and a params.yaml that names these models; returns the folder."""
    prompts = folder / "data/prompts"
    prompts.mkdir(parents=True)
    for name in ("train", "validation", "test_seen", "test_unseen", "test_hard"):
        lines = [{"id": f"{name}{n}", "prompt": f"a red circle {name} {n}"} for n in range(10)]
        text = "".join(f"{json.dumps(line)}\n" for line in lines)
        (prompts / f"{name}.jsonl").write_text(text)
    (folder / "params.yaml").write_text(PARAMS.read_text())
    change(folder, {**SMALL, "rewards": dict(rewards)})
    change(folder, {"generator": {"model": str(generator)}})
    return folder


def change(folder: Path, changes: Mapping[str, Any]) -> None:
    """Change settings in params.yaml, as `merge` does; its comments stay."""
    yaml = YAML()
    values = yaml.load((folder / "params.yaml").read_text())
    merge(values, changes)
    with (folder / "params.yaml").open("w") as file:
        yaml.dump(values, file)


def tgo(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the installed command in a folder."""
    return subprocess.run(
        [TGO, *arguments], cwd=folder, check=False, capture_output=True, text=True, timeout=500
    )


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
