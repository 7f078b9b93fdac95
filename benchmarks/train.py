"""How fast stage three is: against the passes it cannot do without, and against the usual loop.

    python -m benchmarks.train --batch 64         the world, on the shards of `dvc repro label`
    python -m benchmarks.train --size tiny-xl     random weights and rows, to see that all runs
    python -m benchmarks.train --size sd15 --device cuda --batch 32 --set compile=true
    python -m benchmarks.train --size sdxl --device cuda --set compile=true
                                                  512 and 1024 px, random weights
    python -m benchmarks.train --stream           the stream of rows alone, beside `datasets`

The contenders take the same number of steps, and medians count: in turns on a CPU, whose speed
wavers; one after the other on a GPU, which could not hold them all.

    loop    ours: stream, step (clip, AdamW, moving average, statistics), a log line every 10
    lora    the same with adapters of rank 16, the reference being the network without them
    kept    the same as `loop` with the reference's answers kept (`train.reference_cache`)
    bare    forward and backward of the policy and the reference's forward on tensors that are
            there already: what no loop of this objective can do without
    usual   a loop of the usual kind on stock diffusers classes, step by step what the public
            Diffusion-DPO script does: pictures decoded and encoded, text encoded, each network's
            input noised by itself, AdamW, the loss read every step

On a GPU all compute in bfloat16 with float32 weights. `compile` and the like hold for the first
four, as the public script has none of it; what does not fit is named and left out. FLOPs are
counted; MFU is of the data sheet's dense bfloat16 peak (trainer/speed.py).
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.generator_sizes import SIZES
from benchmarks.train_loops import Bare, Loop
from benchmarks.train_rivals import Usual, time_streams
from benchmarks.train_rows import Place, world, write

LORA = {"lora": {"rank": 16, "alpha": 16.0, "targets": None}}
KEPT = {"reference_cache": 4}
Contender = Callable[[int], None]
"""Does so many steps."""


def contenders(place: Place, device: torch.device) -> dict[str, Callable[[], Contender]]:
    """What makes each of them, ready to run."""
    return {
        "loop": partial(Loop, place, device, {}),
        "lora": partial(Loop, place, device, LORA),
        "kept": partial(Loop, place, device, KEPT),
        "bare": partial(Bare, place, device),
        "usual": partial(Usual, place, device),
    }


class Result:
    """What was seen of one contender."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        """Seconds per step, one value for each turn."""
        self.memory: float | None = None
        """GB at its peak on the GPU."""
        self.speed: dict[str, Any] = {}

    def told(self, size: int) -> dict[str, Any]:
        """Its figures as JSON values."""
        rate = {"images_per_s": size / statistics.median(self.seconds)}
        memory = {} if self.memory is None else {"peak_gb": self.memory}
        return rate | self.speed | memory


def measure(
    makers: Mapping[str, Callable[[], Contender]], options: argparse.Namespace, size: int
) -> dict[str, Result]:
    """Several contenders in turns, after a round to warm up."""
    device = torch.device(options.device)
    ready = {name: make() for name, make in makers.items()}
    found = {name: Result() for name in ready}
    for turn in range(options.repeats + 1):
        if turn == 1 and device.type == "cuda":  # exclude memory of compiling and FLOP counting
            torch.cuda.reset_peak_memory_stats(device)
        for name, contender in ready.items():
            _wait(device)
            begin = time.perf_counter()
            contender(options.steps)
            _wait(device)
            if turn:
                found[name].seconds.append((time.perf_counter() - begin) / options.steps)
    for name, contender in ready.items():
        if device.type == "cuda":
            found[name].memory = torch.cuda.max_memory_allocated(device) / 1e9
        if isinstance(contender, Loop):
            found[name].speed = _speed(contender, found[name], size)
            contender.batches.close()
    return found


def _speed(loop: Loop, result: Result, size: int) -> dict[str, Any]:
    seconds = statistics.median(result.seconds)
    told = loop.speed.of(size, seconds)
    return {
        "gflop_per_image": (loop.speed.flops or 0) / 1e9,
        "tflops": told["tflops"],
        "mfu": told["mfu"],
        "stream_share_of_the_step": loop.wait / seconds,
    } | ({} if loop.filled is None else {"seconds_to_fill": loop.filled})


def compare(place: Place, options: argparse.Namespace) -> dict[str, Any]:
    """Everything about the loops, as JSON values."""
    size = place.settings.train.batch_size
    makers = contenders(place, torch.device(options.device))
    chosen = {name: makers[name] for name in options.contenders}
    found: dict[str, Result] = {}
    if options.device == "cuda":
        for name, make in chosen.items():
            try:
                found |= measure({name: make}, options, size)
            except torch.OutOfMemoryError as error:
                print(f"{name}: {error}", file=sys.stderr)
            gc.collect()
            torch.cuda.empty_cache()
    else:
        found = measure(chosen, options, size)
    seconds = {name: statistics.median(result.seconds) for name, result in found.items()}
    return {name: result.told(size) for name, result in found.items()} | _ratios(seconds)


def _ratios(seconds: Mapping[str, float]) -> dict[str, float]:
    """The loop's time over the bare passes', and each one's speed over the usual loop's."""
    found = {}
    if {"loop", "bare"} <= seconds.keys():
        found["loop_over_bare"] = seconds["loop"] / seconds["bare"]
    for name in seconds.keys() & {"loop", "lora", "kept"} if "usual" in seconds else ():
        found[f"{name}_faster_than_usual_by"] = seconds["usual"] / seconds[name]
    return found


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _changes(options: argparse.Namespace) -> dict[str, Any]:
    """What the command line changes of `train`.

    Where it says nothing else: one corruption a sample at the family's own noise levels, as the
    public script draws, and bfloat16 on a GPU.
    """
    given = dict(pair.split("=", 1) for pair in options.set)
    changes = {key: yaml.safe_load(value) for key, value in given.items()}
    if options.batch is not None:
        changes["batch_size"] = options.batch
    levels = {"draw": "family", "mean": 0.0, "std": 1.0, "snr_gamma": None}
    precision = {"precision": "bfloat16"} if options.device == "cuda" else {}
    return {"draws": 1, "timesteps": levels} | precision | changes


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; see the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ("loop", "lora", "kept", "bare", "usual")
    parser.add_argument("--size", choices=("world", *SIZES), default="world")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--contenders", nargs="+", choices=names, default=names)
    parser.add_argument("--batch", type=int, help="images a step; left out: as the settings")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="of `train`")
    parser.add_argument("--steps", type=int, default=5, help="of each contender in a turn")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--stream", action="store_true", help="the stream alone")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        root, changes = Path(folder), _changes(options)
        if options.stream:
            result = time_streams(root, options.repeats)
        elif options.size == "world":
            result = compare(world(root, changes), options)
        else:
            result = compare(write(SIZES[options.size], root, changes, options.device), options)
    told = {"settings": {key: str(value) for key, value in vars(options).items()}, **result}
    print(json.dumps(told, indent=2))
    if options.json:
        options.json.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
