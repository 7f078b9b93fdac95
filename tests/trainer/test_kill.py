from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.killed import killed_run
from tests.trainer.miniature import SIZES, Place, make_settings, write_rows
from tests.trainer.parallel import forking
from tests.trainer.test_train import run, same


def killed(
    place: Place, model: Path, workers: int, where: str, number: int, **changes: Any
) -> int | None:
    process = forking().Process(
        target=killed_run, args=(place.root, model, workers, where, number), kwargs=changes
    )
    process.start()
    process.join()
    code: int | None = process.exitcode
    return code


@pytest.mark.slow
def test_a_run_killed_anywhere_ends_with_the_same_bits(model: Path, place: Place) -> None:
    whole = run(make_settings(model, steps=30, log_every=4), place, "whole")
    step = random.Random().randint(1, 9)
    for workers, where, number in (
        (0, "step", step),
        (2, "save", 15),
        (1, "publish", 30),
    ):
        code = killed(place, model, workers, where, number)
        assert code == -signal.SIGKILL, f"killed at {where} {number}"
        assert not place.paths().tuned.exists()
    assert killed(place, model, 3, "never", 0) == 0
    folder = place.paths().tuned
    files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    assert files
    for file in files:
        assert (folder / file).read_bytes() == (whole["folder"] / file).read_bytes(), file
    assert same(run(make_settings(model, steps=30, log_every=4), place), whole)
    leftovers = [path.name for path in (place.root / "run").iterdir()]
    assert sorted(leftovers) == [
        ".checkpoints.lock",
        "checkpoints",
        "samples",
        "train_log.jsonl",
        "train_timing.jsonl",
        "tuned",
    ]


@pytest.mark.slow
def test_a_run_on_several_sizes_ends_with_the_same_bits(model: Path, tmp_path: Path) -> None:
    place = write_rows(tmp_path, shard_rows=(80, 72, 32), several_sizes=True)
    changes: dict[str, Any] = {"resolution": SIZES, "held_out": 0.1}
    whole = run(make_settings(model, steps=30, log_every=4, **changes), place, "whole")
    for workers, where, number in ((0, "step", 8), (2, "save", 15)):
        assert killed(place, model, workers, where, number, **changes) == -signal.SIGKILL
    assert killed(place, model, 3, "never", 0, **changes) == 0
    assert same(run(make_settings(model, steps=30, log_every=4, **changes), place), whole)


def torchrun(place: Place, model: Path, name: str, last: int) -> subprocess.CompletedProcess[str]:
    """A run of two processes that is terminated after step ``last``."""
    module = ["--module", "tests.trainer.terminated", place.root, model, name, last]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.run(
        [str(word) for word in [*command, "--nproc-per-node", 2, *module]],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_several_processes_that_are_terminated_save_and_go_on(model: Path, place: Place) -> None:
    ended = torchrun(place, model, "run", last=7)
    assert ended.returncode != 0
    stopped = re.search(r"SIGTERM: stopped and saved after step (\d+)", ended.stderr)
    assert stopped, ended.stderr
    assert 7 <= int(stopped[1]) < 30  # between the checkpoints that were due
    again = torchrun(place, model, "run", last=-1)
    assert again.returncode == 0, again.stderr
    assert f"continuing after step {stopped[1]} of 40" in again.stdout
    assert torchrun(place, model, "whole", last=-1).returncode == 0
    for file in ("unet/diffusion_pytorch_model.safetensors", "model_index.json"):
        one, other = (place.paths(name).tuned / file for name in ("run", "whole"))
        assert one.read_bytes() == other.read_bytes()
    # a checkpoint gathers the sums since the last line, which rounds them differently
    log, log_of_whole = (place.paths(name).log.read_text() for name in ("run", "whole"))
    assert log.count("\n") == log_of_whole.count("\n") == 14
