"""Kills `dvc repro` again and again, in whatever stage it is, and compares the bytes at the end.

    python -m tests.faults.kill_repro --kills 100

A project of the world's miniature models runs once undisturbed. Then the same project runs again
and is stopped at random moments: SIGKILL to dvc and all it started, SIGKILL to dvc alone, so that
its stage lives on, SIGTERM and Ctrl-C to all. The same command follows every time, until a run ends
by itself. Then every output must have the bytes of the undisturbed run, and nothing else may lie
there. Laps follow each other until there were as many stops as asked. The exit status is 1 where
bytes or files differ, a command that was asked to stop took more than 5 seconds, or a run failed
for another reason than these two: the stage of a killed dvc was still writing; or the kill tore
DVC's own .dvc/tmp/rwlock, which DVC names, and which is removed as its users are told to.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.workspace import SMALL, TGO, change, tgo

OUTPUTS = ("data/scored", "data/prompt_embeddings", "data/labelled", "data/evaluated",
           "models/tuned", "reports")  # fmt: skip
TOLD = re.compile(
    r"reports/(stages|train_timing)\.jsonl|reports/index\.html|reports/tensorboard/.*|.*\.lock"
)
"""Files that tell of dates, durations or processes: they must be there, with other bytes."""
PATIENCE = 5.0
LONGEST = 1 / 3
"""Of an undisturbed run's duration: the longest time until a stop, so that laps have several."""
WAYS = {
    "SIGKILL to all": (signal.SIGKILL, True),
    "SIGKILL to dvc": (signal.SIGKILL, False),
    "SIGTERM to all": (signal.SIGTERM, True),
    "Ctrl-C to all": (signal.SIGINT, True),
}
STAGE = re.compile(r"Running stage '(\w+)'")


class Project:
    """A project folder in which `dvc repro` is started and stopped."""

    def __init__(self, root: Path) -> None:
        assert tgo(root, "init", "project", "--world").returncode == 0
        self.root = root / "project"
        change(self.root, SMALL)
        self._output = root / "output"
        self._environment = {**os.environ, "PATH": f"{TGO.parent}:{os.environ['PATH']}"}

    def start(self) -> subprocess.Popen[bytes]:
        with self._output.open("wb") as output:
            return subprocess.Popen(
                [TGO.with_name("dvc"), "repro"],
                cwd=self.root,
                env=self._environment,
                start_new_session=True,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def said(self) -> str:
        return self._output.read_text(errors="replace")

    def stage(self) -> str:
        """The stage that the last run had come to."""
        found = STAGE.findall(self.said)
        return found[-1] if found else "before the first"

    def files(self) -> dict[str, bytes]:
        """Every file of the outputs, as bytes; of what tells of dates the name alone."""
        return {name: b"" if TOLD.fullmatch(name) else data for name, data in self._read()}

    def _read(self) -> Iterator[tuple[str, bytes]]:
        for folder in OUTPUTS:
            for path in (self.root / folder).rglob("*"):
                if path.is_file():
                    name = path.relative_to(self.root).as_posix()
                    yield re.sub(r"events\.out\..*", "events", name), path.read_bytes()

    def clear(self) -> None:
        for folder in ("data/checkpoints", *OUTPUTS):
            shutil.rmtree(self.root / folder, ignore_errors=True)
        (self.root / "dvc.lock").unlink(missing_ok=True)
        shutil.rmtree(self.root / ".dvc/cache", ignore_errors=True)


def alive(group: int) -> bool:
    """Whether any process of a group runs."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def stop(process: subprocess.Popen[bytes], way: str) -> float | None:
    """Stop a run; seconds that all of it took to end, None where its stage was let live on."""
    number, everyone = WAYS[way]
    began = time.monotonic()
    if everyone:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    process.wait()
    while everyone and alive(process.pid) and time.monotonic() - began < 60:
        time.sleep(0.05)
    return time.monotonic() - began if everyone else None


def campaign(project: Project, kills: int, seed: int) -> list[str]:
    """Stop runs `kills` times; prints a table, returns a line a fault."""
    chance = random.Random(seed)
    began = time.monotonic()
    assert project.start().wait() == 0, project.said
    seconds, whole = time.monotonic() - began, project.files()
    print(f"undisturbed: {seconds:.0f} s, {len(whole)} files", flush=True)
    project.clear()
    counts: Counter[tuple[str, str]] = Counter()
    slowest, laps, torn, faults = 0.0, 0, 0, []
    while counts.total() < kills or laps == 0:
        process = project.start()
        way = chance.choice(list(WAYS))
        try:
            wait = chance.uniform(0, seconds * LONGEST)
            code = process.wait(wait if counts.total() < kills else None)
        except subprocess.TimeoutExpired:
            took = stop(process, way)
            counts[project.stage(), way] += 1
            if took is not None:
                slowest = max(slowest, took)
                if took > PATIENCE:
                    faults.append(f"{way} in {project.stage()}: ended after {took:.1f} s")
            continue
        if code and "is being written by" in project.said:
            time.sleep(1)  # the stage of a dvc that was killed alone
        elif code and "Unable to read RWLock-file" in project.said:
            (project.root / ".dvc/tmp/rwlock").unlink()
            torn += 1
        elif code:
            faults.append(f"a run after {sum(counts.values())} stops failed: {project.said[-500:]}")
            break
        else:
            laps += 1
            found = differences(whole, project.files())
            print(
                f"lap {laps}: {counts.total()} stops so far, {len(found)} differences", flush=True
            )
            faults += found
            project.clear()
    for (stage, way), count in sorted(counts.items()):
        print(f"| {stage} | {way} | {count} |")
    print(f"{counts.total()} stops, {laps} laps, slowest end {slowest:.1f} s")
    print(f"{torn} times a file of DVC's own was torn; {len(faults)} faults")
    return faults


def differences(whole: dict[str, bytes], found: dict[str, bytes]) -> list[str]:
    """What differs from the undisturbed run, a line a file."""
    lines = [f"{name}: lacks" for name in sorted(whole.keys() - found.keys())]
    lines += [f"{name}: is left over" for name in sorted(found.keys() - whole.keys())]
    both = sorted(whole.keys() & found.keys())
    return lines + [f"{name}: other bytes" for name in both if whole[name] != found[name]]


def main() -> None:
    """The command line; see the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    # a shell lets what it starts in the background ignore Ctrl-C, and dvc would inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as place:
        faults = campaign(Project(Path(place)), options.kills, options.seed)
    for line in faults:
        print(line)
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
