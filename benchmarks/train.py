"""How fast stage three is: against the passes it cannot do without, and against the usual loop.

    python -m benchmarks.train                    the world, on the shards of `dvc repro label`
    python -m benchmarks.train --size tiny        random weights and rows, to see that all runs
    python -m benchmarks.train --size sd15 --device cuda --batch 16
                                                  SD 1.5's sizes at 512 px, random weights
    python -m benchmarks.train --stream           the stream of rows alone, beside `datasets`

The contenders take the same number of updates in turns, and medians count:

    loop    ours: stream, update (clip, AdamW, moving average, statistics), a log line every 10
    bare    forward and backward of the policy and the reference's forward on tensors that are
            there already: what no loop of this objective can do without
    usual   a loop of the usual kind on stock diffusers classes, step by step what the public
            Diffusion-DPO script does: pictures decoded and encoded, text encoded, each network's
            input noised by itself, AdamW, the loss read every step

FLOPs are counted; MFU is of the data sheet's dense bfloat16 peak (trainer/speed.py).
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.generator_sizes import SIZES
from benchmarks.train_rivals import Usual, time_streams
from benchmarks.train_rows import Place, world, write
from pipeline.generators import load_generator
from trainer.distributed import World
from trainer.journal import Log, summary
from trainer.learner import Learner
from trainer.loggers import Loggers
from trainer.objectives import load_objective
from trainer.rows import LabelledRows
from trainer.speed import Speed, peak
from trainer.stream import Stream

LOG_EVERY = 10
Contender = Callable[[int], None]
"""Does so many updates."""


class Loop:
    """Our loop as `tgo train` runs it, without checkpoints."""

    def __init__(self, place: Place, device: torch.device) -> None:
        train = place.settings.train
        objective = load_objective(train)
        rows = LabelledRows(place.scored, place.labelled, place.embeddings)
        family = load_generator(place.settings.generator, device=str(device))
        self.learner = Learner(family, objective, train, rows.unconditional, World(device))
        stream = Stream(rows, seed=0, batch_size=train.batch_size, pin=device.type == "cuda")
        self.batches = stream.batches()
        first = next(self.batches)
        self.speed = Speed(self.learner.flops(first), peak(device))
        self._log = Log(place.reports / "train_log.jsonl", "", Loggers())
        self._size, self.done = train.batch_size, 0
        self.waited = 0.0
        """Seconds in which the stream was waited for."""

    def __call__(self, updates: int) -> None:
        for _ in range(updates):
            self.done += 1
            begin = time.perf_counter()
            batch = next(self.batches)
            self.waited += time.perf_counter() - begin
            self.learner.update(self.done, batch)
            if self.done % LOG_EVERY == 0:
                sums = self.learner.statistics.read()
                self.learner.statistics.reset()
                line = {"update": self.done, **summary(sums)}
                self._log.write(line, LOG_EVERY * self._size, self.speed)


class Bare:
    """Nothing but the passes, on one batch that lies on the device."""

    def __init__(self, place: Place, device: torch.device) -> None:
        self._family = load_generator(place.settings.generator, device=str(device))
        self._reference = copy.deepcopy(self._family.network).eval()
        self._policy = self._family.network.eval().requires_grad_(True)
        rows = LabelledRows(place.scored, place.labelled, place.embeddings)
        size = place.settings.train.batch_size
        batch = next(Stream(rows, seed=0, batch_size=size).batches()).to(device)
        self._codes, self._conditions = batch.codes.float(), batch.conditions
        drawn = self._family.corrupt(batch.codes.cpu(), torch.Generator().manual_seed(0))
        self._corruption = type(drawn)(*(part.to(device) for part in drawn))
        self._parameters = list(self._policy.parameters())

    def __call__(self, updates: int) -> None:
        for _ in range(updates):
            found = self._log_likelihood(self._policy)
            with torch.no_grad():
                reference = self._log_likelihood(self._reference)
            (reference - found).mean().backward()
            for parameter in self._parameters:
                parameter.grad = None

    def _log_likelihood(self, network: nn.Module) -> Tensor:
        given = (self._codes, self._conditions, self._corruption)
        return self._family.log_likelihood(network, *given, temperature=1.0)


def measure(
    contenders: dict[str, Contender], updates: int, repeats: int, device: torch.device
) -> dict[str, float]:
    """Median seconds an update of each, in turns after one round to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(repeats + 1):
        for name, contender in contenders.items():
            _wait(device)
            begin = time.perf_counter()
            contender(updates)
            _wait(device)
            if turn:
                seconds[name].append((time.perf_counter() - begin) / updates)
    return {name: statistics.median(took) for name, took in seconds.items()}


def compare(place: Place, options: argparse.Namespace) -> dict[str, Any]:
    """Everything about the loop, as JSON values."""
    device = torch.device(options.device)
    loop = Loop(place, device)
    memory = _peak_memory(loop, device)
    contenders: dict[str, Contender] = {
        "loop": loop,
        "bare": Bare(place, device),
        "usual": Usual(place, device),
    }
    loop.waited, before = 0.0, loop.done
    took = measure(contenders, options.updates, options.repeats, device)
    size = place.settings.train.batch_size
    told = loop.speed.of(size, took["loop"])
    loop.batches.close()
    return {
        "images_per_s": {name: size / seconds for name, seconds in took.items()},
        "loop_over_bare": took["loop"] / took["bare"],
        "loop_faster_than_usual_by": took["usual"] / took["loop"],
        "stream_share_of_the_step": loop.waited / (loop.done - before) / took["loop"],
        "gflop_per_image": (loop.speed.flops or 0) / 1e9,
        "tflops": told["tflops"],
        "mfu": told["mfu"],
        "peak_gb_of_the_loop": memory,
    }


def _peak_memory(loop: Loop, device: torch.device) -> float | None:
    """GB that an update of the loop needs, alone on the device; None on a CPU."""
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    loop(2)
    return torch.cuda.max_memory_allocated(device) / 1e9


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=("world", *SIZES), default="world")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch", type=int, help="images an update; left out: as the settings")
    parser.add_argument("--updates", type=int, default=5, help="of each contender in a turn")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--stream", action="store_true", help="the stream alone")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        if options.stream:
            result = time_streams(root, options.repeats)
        else:
            place = (
                world(root, options.batch)
                if options.size == "world"
                else write(options.size, root, options.batch)
            )
            result = compare(place, options)
    told = {"settings": {key: str(value) for key, value in vars(options).items()}, **result}
    print(json.dumps(told, indent=2))
    if options.json:
        options.json.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
