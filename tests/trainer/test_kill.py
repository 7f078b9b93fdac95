from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest

from tests.trainer.killed import killed_run
from tests.trainer.miniature import Place, make_settings
from tests.trainer.parallel import forking
from tests.trainer.test_train import run, same


def killed(place: Place, model: Path, workers: int, where: str, number: int) -> int | None:
    process = forking().Process(target=killed_run, args=(place.root, model, workers, where, number))
    process.start()
    process.join()
    code: int | None = process.exitcode
    return code


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
