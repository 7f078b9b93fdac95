r"""How well stage one uses its device, and how much faster it is than diffusers' own pipeline.

    python -m benchmarks.generate                          CPU, the world's models
    python -m benchmarks.generate --size full --device cuda --dtype bfloat16 --steps 50 \
        --guidance-scale 7.5 --batch 32 --prompts 64 --threads 8
                                                           SD 1.5's sizes at 512 px, five reward
                                                           models of the published sizes, random

All rivals make images of the same prompts in one run, in turns, and the median counts:

    sampling            ours, embeddings in, latents out
    images              ours, decoded too
    parts               sampling, decoding and scoring, one after the other, nothing written
    stage               all of stage one: embeddings, images, scores, PNGs, shard, manifest
    diffusers           StableDiffusionPipeline prompt by prompt, `num_images_per_prompt` at a time
    diffusers, single   the same, one image at a time

`busy` is the share of sampling's time in which an operator (CPU) or a kernel (GPU) runs, by torch's
profiler, whose own cost counts against it. FLOP are counted, not assumed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import reward_sizes
from benchmarks.generator_sizes import MINIATURE, SIZES, write_model
from tgo.pipeline.generators.diffusion import Diffusion
from tgo.pipeline.scoring import sampling as produce
from tgo.pipeline.scoring.local_engine import score_prompts
from tgo.pipeline.sources.prompts import Prompt
from tgo.pipeline.tools.cards import CARDS
from tgo.rewards.panel import Panel

SUBJECTS = ("a red circle", "a blue square", "a green triangle", "a yellow circle")


class Rivals:
    """What is measured; every method makes all images once."""

    def __init__(self, options: argparse.Namespace, model: Path, panel: Panel) -> None:
        self.options, self.panel = options, panel
        self.family = Diffusion.load(
            str(model),
            steps=options.steps,
            guidance_scale=options.guidance_scale,
            dtype=options.dtype,
            device=options.device,
        )
        if options.compile:
            self.family.network.compile(dynamic=False)
        self.pipeline = _stock(self.family, model)
        self.prompts = [
            Prompt(str(place), f"{SUBJECTS[place % len(SUBJECTS)]} number {place}", "all")
            for place in range(options.prompts)
        ]
        texts = [prompt.text for prompt in self.prompts]
        self.embedded = produce.embed(self.family, texts, options.batch)
        self.rows = produce.rows_of(self.prompts, seed=0, images_per_prompt=options.per_prompt)

    def sampling(self) -> list[produce.Sampled]:
        return list(self._sampled())

    def images(self) -> None:
        for sampled in self._sampled():
            produce.decode(self.family, sampled)

    def parts(self) -> None:
        self.panel.forget()
        size = self.options.batch
        for start, sampled in zip(range(0, len(self.rows), size), self._sampled(), strict=True):
            texts = [row.prompt.text for row in self.rows[start : start + size]]
            produce.score(self.panel, produce.decode(self.family, sampled), texts, size)

    def stage(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            score_prompts(
                self.family,
                self.panel,
                self.prompts,
                Path(folder) / "scored",
                embeddings_folder=Path(folder) / "embeddings",
                seed=0,
                images_per_prompt=self.options.per_prompt,
                batch_size=self.options.batch,
                rows_per_shard=self.options.rows_per_shard,
                compiled=self.options.compile,
            )

    def diffusers(self) -> None:
        for prompt in self.prompts:
            self._stock(prompt.text, self.options.per_prompt)

    def diffusers_single(self) -> None:
        for row in self.rows:
            self._stock(row.prompt.text, 1)

    def _sampled(self) -> Iterable[produce.Sampled]:
        return produce.sample(self.family, self.rows, self.embedded, self.options.batch)

    def _stock(self, text: str, images: int) -> None:
        self.pipeline(
            text,
            num_images_per_prompt=images,
            num_inference_steps=self.options.steps,
            guidance_scale=self.options.guidance_scale,
        )


def _stock(family: Diffusion, model: Path) -> Any:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(
        model, dtype=next(family.network.parameters()).dtype, safety_checker=None
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(next(family.network.parameters()).device)


def measure(rivals: dict[str, Callable[[], Any]], repeats: int, device: str) -> dict[str, float]:
    """Median seconds of each, in turns after one round to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for turn in range(repeats + 1):
        for name, rival in rivals.items():
            begin = time.perf_counter()
            rival()
            if device == "cuda":
                torch.cuda.synchronize()
            if turn:
                seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(took) for name, took in seconds.items()}


def busy(work: Callable[[], Any], device: str) -> float:
    """Share of the time in which the device has something to run."""
    on_gpu = device == "cuda"
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=kinds) as profiler:
        begin = time.perf_counter()
        work()
        took = time.perf_counter() - begin
    wanted = torch.autograd.DeviceType.CUDA if on_gpu else torch.autograd.DeviceType.CPU
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in profiler.events()
        if event.device_type == wanted and (on_gpu or event.cpu_parent is None)
    )
    return covered(spans) / 1e6 / took


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Length of the union of intervals, given in the order of their starts."""
    total, reached = 0.0, float("-inf")
    for start, end in spans:
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def run(options: argparse.Namespace, model: Path, rewards: dict[str, str]) -> dict[str, Any]:
    """Everything measured, as JSON values."""
    dtype = getattr(torch, options.dtype)
    rivals = Rivals(options, model, Panel.load(rewards, device=options.device, dtype=dtype))
    if options.compile:
        rivals.panel.compile(options.batch)
    with FlopCounterMode(display=False) as counter:
        rivals.sampling()
    images = len(rivals.rows)
    tflop = counter.get_total_flops() / images / 1e12
    compared: dict[str, Callable[[], Any]] = {
        "sampling": rivals.sampling,
        "images": rivals.images,
        "parts": rivals.parts,
        "stage": rivals.stage,
        "diffusers": rivals.diffusers,
        "diffusers, single": rivals.diffusers_single,
    }
    seconds = measure(compared, options.repeats, options.device)
    reached = tflop * images / seconds["sampling"]
    peak = _peak(options.device)
    return {
        "settings": {key: str(value) for key, value in vars(options).items()},
        "images_per_s": {name: images / took for name, took in seconds.items()},
        "busy_in_sampling": busy(rivals.sampling, options.device),
        "stage_over_sampling": seconds["stage"] / seconds["sampling"],
        "stage_over_parts": seconds["stage"] / seconds["parts"],
        "faster_than_diffusers": seconds["diffusers"] / seconds["images"],
        "faster_than_diffusers_single": seconds["diffusers, single"] / seconds["images"],
        "tflop_per_image": tflop,
        "tflop_per_s_in_sampling": reached,
        "share_of_peak": reached / peak if peak else None,
    }


def _peak(device: str) -> float | None:
    """TFLOP/s of the data sheet, where this GPU is a known one."""
    if device != "cuda":
        return None
    name = torch.cuda.get_device_name().lower()
    return next((card.tflops for name_of, card in CARDS.items() if name_of in name), None)


def main() -> None:
    """The command line; see the module."""
    options = _options()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        model = _generator(options, Path(folder))
        rewards = reward_sizes.write(options.size, Path(folder) / "rewards", options.device)
        result = run(options, model, rewards)
    print(json.dumps(result, indent=2))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


def _generator(options: argparse.Namespace, folder: Path) -> Path:
    """The folder of a generator of that size; `full` is written below `folder` (2.1 GB)."""
    if options.size == "miniature":
        return MINIATURE
    write_model(SIZES["sd15"], folder / "generator", options.device)
    return folder / "generator"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=("miniature", "full"), default="miniature")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--guidance-scale", type=float, default=2.0)
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--per-prompt", type=int, default=4)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rows-per-shard", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
