"""Many runs at once: each worker holds its models and takes the next run that is not done.

A run's result is two files, `<name>.npz` and `<name>.json`, the second written last: it is what
says that a run is done. Killed at any moment, the same command goes on with what is left.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.claims.run import VALIDATION, Bench, Run, load, save
from tgo.pipeline import layout
from tgo.pipeline.config import settings
from tgo.pipeline.scoring.worker_share import Share
from tgo.pipeline.storage.atomic import write_json
from tgo.pipeline.tools import preset

PRESETS = {"diffusion": "world", "masked": "world-masked"}


def result(root: Path, run: Run) -> Path:
    """The file that says that a run is done."""
    return root / "results" / f"{run.name}.json"


def start_settings(root: Path, paradigm: str) -> settings.Settings:
    """The settings of a paradigm's preset, whatever params.yaml says now."""
    path = root / paradigm / "params.yaml"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(layout.PARAMS, path)
        preset.apply(PRESETS[paradigm], layout.PRESETS, path)
    return settings.load(path)


class Crew:
    """`count` workers on `device`, for at most `seconds`."""

    def __init__(self, root: Path, device: str, count: int, seconds: float | None) -> None:
        self.root, self.device, self.count = root, device, count
        self.end = None if seconds is None else time.monotonic() + seconds

    def do(self, runs: Sequence[Run]) -> None:
        """Do the runs in their order, data first."""
        assert len({run.name for run in runs}) == len(runs), "two runs have one name"
        (self.root / "results").mkdir(parents=True, exist_ok=True)
        for mark in (self.root / "results").glob("*.failed"):
            mark.unlink()
        left = [run for run in runs if not result(self.root, run).exists()]
        for paradigm in {run.paradigm for run in left}:
            start_settings(self.root, paradigm)
        spawn = multiprocessing.get_context("spawn")  # a forked process cannot use a GPU
        taken, together = spawn.Value("i", 0), spawn.Barrier(self.count)
        workers = [
            spawn.Process(target=self._work, args=(number, left, taken, together))
            for number in range(self.count)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        done = sum(result(self.root, run).exists() for run in runs)
        print(f"claims: {done} of {len(runs)} runs are done", file=sys.stderr)

    def _work(self, number: int, left: Sequence[Run], taken: Any, together: Any) -> None:
        benches: dict[str, Bench] = {}
        self._prepare()
        trained = [run for run in left if run.changes is not None or run.best_of]
        for paradigm, prompts, images in sorted(
            {(r.paradigm, r.prompts, r.images) for r in trained}
        ):
            try:
                share = Share(number, self.count)
                self._bench(benches, paradigm).make(prompts, images, share)
            except Exception:  # noqa: BLE001  told here, and by each run that lacks the data
                print(traceback.format_exc(), file=sys.stderr, flush=True)
        print(f"worker {number}: data made", file=sys.stderr, flush=True)
        together.wait(timeout=600)
        slowest = 0.02  # seconds a step, measured as runs finish
        while True:
            with taken.get_lock():
                place, taken.value = taken.value, taken.value + 1
            if place >= len(left):
                return
            run = self._resolved(left[place])
            if run is None:  # a run that it waits for has failed, or time is up
                result(self.root, left[place]).with_suffix(".failed").touch()
                continue
            work = (run.changes or {}).get("train.steps", 300) * run.rounds
            if self.end is not None and time.monotonic() + slowest * work > self.end:
                continue
            seconds = self._do(self._bench(benches, run.paradigm), run)
            slowest = max(0.5 * slowest, seconds / work) if run.changes is not None else slowest

    def _resolved(self, run: Run) -> Run | None:
        """The run with the settings of the best of its `best_of` runs, after waiting for them."""
        if not run.best_of:
            return run
        base = Run(f"validation-{run.paradigm}-base", run.paradigm)
        files = [self.root / "results" / f"{name}.json" for name in (base.name, *run.best_of)]
        while not all(f.exists() or f.with_suffix(".failed").exists() for f in files):
            if self.end is not None and time.monotonic() > self.end:
                return None
            time.sleep(0.3)
        chosen = best(self.root, base, run.best_of)
        if chosen is None:
            print(f"{run.name}: none of {run.best_of} gives a model", file=sys.stderr, flush=True)
            return None
        several = chosen["rounds"] > 1
        own = {key: chosen[key] for key in ("rounds", "reference", "prompts", "images") if several}
        changes = {**chosen["changes"], **(run.changes or {})}
        return replace(run, changes=changes, best_of=(chosen["name"],), **own)

    def _do(self, bench: Bench, run: Run) -> float:
        began = time.monotonic()
        try:
            facts, measured = bench.do(run)
        except Exception:  # noqa: BLE001  one run's fault must not end the others; it is told
            print(f"{run.name}: failed\n{traceback.format_exc()}", file=sys.stderr, flush=True)
            result(self.root, run).with_suffix(".failed").touch()
            return 0.0
        path = result(self.root, run)
        save(path.with_suffix(".npz"), measured)
        write_json(path, facts)
        print(f"{run.name}: {facts['seconds']} s", file=sys.stderr, flush=True)
        return time.monotonic() - began

    def _bench(self, benches: dict[str, Bench], paradigm: str) -> Bench:
        if paradigm not in benches:
            found = start_settings(self.root, paradigm)
            benches[paradigm] = Bench(self.root / paradigm, found, self.device)
        return benches[paradigm]

    def _prepare(self) -> None:
        """One CPU thread per worker, TF32 on a GPU, and no progress bars."""
        import torch

        os.environ["TQDM_DISABLE"] = "1"
        torch.set_num_threads(1)
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True


def best(root: Path, base: Run, names: Sequence[str]) -> dict[str, Any] | None:
    """Facts of the validation run whose feedback gains most over the base model's."""
    before = load(result(root, base).with_suffix(".npz"))[VALIDATION]
    gains: dict[str, float] = {}
    known: dict[str, dict[str, Any]] = {}
    for name in names:
        facts = facts_of(root, Run(name))
        if facts is None or facts.get("collapsed"):
            continue
        after = load(root / "results" / f"{name}.npz")[VALIDATION]
        feedback = label_of(facts)
        gains[name] = float((after[feedback] - before[feedback][:, :2]).mean())
        known[name] = facts
    return known[max(gains, key=lambda name: gains[name])] if gains else None


def label_of(facts: Mapping[str, Any]) -> str:
    """The reward model that a run is chosen by: PickScore, unless one other is the feedback."""
    reward = (facts["changes"] or {}).get("label.reward", {})
    return next(iter(reward)) if len(reward) == 1 else "pickscore"


def facts_of(root: Path, run: Run) -> dict[str, Any] | None:
    """What is known of a run that is done."""
    path = result(root, run)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
