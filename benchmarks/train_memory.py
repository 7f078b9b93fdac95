"""How much memory `tgo train` takes at the published sizes, from reading the model to writing it.

    python -m benchmarks.train_memory --size sd15 --folder /tmp/sd15
    python -m benchmarks.train_memory --size sd15 --folder /tmp/sd15 --set train.precision=bfloat16

Random weights in float16, as models are published, and random rows; adapters of rank 4, images of
128 pixels, three steps of one image, float32 on the CPU where nothing else is said. For each phase
the largest resident memory in GB: `own` is what the process allocated, `mapped` are pages of files,
which the system takes back when others need them. The model is left in the folder for the next run.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from benchmarks.generator_sizes import SIZES, Size, write_model
from benchmarks.train_rows import write_rows
from tgo.pipeline.config import settings
from tgo.trainer import train
from tgo.trainer.paths import Paths

ROWS, EVERY = 16, 0.02
CHANGES = (
    "device=cpu",
    "threads=2",
    "generator.resolution=128",
    "train.lora={rank: 4, alpha: 4, targets: null}",
    "train.batch_size=1",
    "train.draws=1",
    "train.timesteps.draw=family",
    "train.steps=3",
    "train.samples=null",
    "train.loggers=[]",
)


class Peaks:
    """The largest resident memory of each phase of this process, read all the time."""

    def __init__(self) -> None:
        self.gb: dict[str, dict[str, float]] = {}
        self._phase, self._done = "import", threading.Event()

    def enter(self, phase: str) -> None:
        """What is read from now on belongs to another phase."""
        self._read()
        self._phase = phase

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Inside, memory is read every few milliseconds."""
        thread = threading.Thread(target=self._watch)
        thread.start()
        try:
            yield
        finally:
            self._done.set()
            thread.join()
            self._read()

    def _watch(self) -> None:
        while not self._done.is_set():
            self._read()
            time.sleep(EVERY)

    def _read(self) -> None:
        lines = Path("/proc/self/status").read_text().splitlines()
        kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines if " kB" in line}
        known = self.gb.setdefault(self._phase, {"own": 0.0, "mapped": 0.0, "resident": 0.0})
        for name, key in (("own", "RssAnon"), ("mapped", "RssFile"), ("resident", "VmRSS")):
            known[name] = max(known[name], kilobytes[key] * 1024 / 1e9)


def measure(size: Size, model: Path, changes: Sequence[str]) -> dict[str, dict[str, float]]:
    """Peaks of one training run, by phase.

    Args:
        size: of the model, for its conditions.
        model: the model's folder.
        changes: settings, each as group.key=value.

    Returns:
        GB by phase: import, read, train and write.
    """
    named = [f"generator.model={model}", f"generator.family={size.family}"]
    chosen = settings.load("params.yaml", [*CHANGES, *named, *changes])
    sizes = chosen.generator.sizes
    side = (sizes[0].width if sizes else size.pixels) * size.latent // size.pixels
    peaks = Peaks()
    with TemporaryDirectory() as name:
        root = Path(name)
        write_rows(root, (4, side, side), size.conditions, ROWS, pixels=None)
        paths = Paths(
            scored=root / "scored",
            labelled=root / "labelled",
            embeddings=root / "embeddings",
            references=root / "references",
            checkpoints=root / "checkpoints",
            tuned=root / "tuned",
            log=root / "train_log.jsonl",
            samples=root / "samples",
        )
        with (
            peaks.watching(),
            patch.object(train, "_load_family", _marked(train._load_family, peaks, "read")),
            patch.object(train, "Learner", _marked(train.Learner, peaks, "train")),
            patch.object(train, "save_model", _marked(train.save_model, peaks, "write")),
        ):
            train.run(chosen, paths)
        written = sum(path.stat().st_size for path in paths.tuned.rglob("*") if path.is_file())
    return peaks.gb | {"on disk": {"tuned": written / 1e9}}


def _marked(function: Callable[..., Any], peaks: Peaks, phase: str) -> Callable[..., Any]:
    """The function, which a phase begins with."""

    def call(*arguments: Any, **options: Any) -> Any:
        peaks.enter(phase)
        return function(*arguments, **options)

    return call


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; see the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=tuple(SIZES), default="sd15")
    parser.add_argument("--folder", type=Path, required=True, help="where the model is, or is made")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", dest="changes")
    options = parser.parse_args(arguments)
    if not options.folder.exists():
        write_model(SIZES[options.size], options.folder)
    print(json.dumps(measure(SIZES[options.size], options.folder, options.changes), indent=2))


if __name__ == "__main__":
    main()
