from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trainer.miniature import Place, make_settings
from tests.trainer.test_train import run, same

ROOT = Path(__file__).parents[2]


def killed(place: Place, model: Path, workers: int, where: str, number: int) -> int:
    arguments = [str(place.root), str(model), str(workers), where, str(number)]
    command = [sys.executable, "-m", "tests.trainer.killed", *arguments]
    return subprocess.run(command, cwd=ROOT, check=False, capture_output=True).returncode


@pytest.mark.slow
def test_a_run_killed_anywhere_ends_with_the_same_bits(model: Path, place: Place) -> None:
    whole = run(make_settings(model, updates=30, log_every=4), place, "whole")
    update = random.Random().randint(1, 9)
    for workers, where, number in (
        (0, "update", update),
        (2, "save", 15),
        (1, "publish", 30),
    ):
        code = killed(place, model, workers, where, number)
        assert code == -signal.SIGKILL, f"killed at {where} {number}"
        assert not place.outputs()["tuned"].exists()
    assert killed(place, model, 3, "never", 0) == 0
    folder = place.outputs()["tuned"]
    files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    assert files
    for file in files:
        assert (folder / file).read_bytes() == (whole["folder"] / file).read_bytes(), file
    assert same(run(make_settings(model, updates=30, log_every=4), place), whole)
    leftovers = [path.name for path in (place.root / "run").iterdir()]
    assert sorted(leftovers) == [
        ".checkpoints.lock",
        "checkpoints",
        "samples",
        "train_log.jsonl",
        "train_timing.jsonl",
        "tuned",
    ]
