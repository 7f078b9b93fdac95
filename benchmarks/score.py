"""How fast the panel scores: against five separate models, and the official packages' own calls.

    python -m benchmarks.score                             CPU, the world's miniatures
    python -m benchmarks.score --size base                 CPU, towers of ViT-B's size, random
    python -m benchmarks.score --size full --device cuda --dtype bfloat16 --compile --batch 64
                                                           published sizes, random weights

All rivals score the same images for the same prompts in one run, in turns, and the median counts:

    panel              ours
    separate           our five models one after the other, each with its own resize and its own
                       pass, text encoded once per unique prompt
    separate, no cache the same, text encoded for every image
    official           the packages' calls, `hpsv2.score` and `ImageReward.score`, and for the other
                       three the lines of their model cards; one image at a time, in float32

With --jpeg the panel starts from 512 px JPEGs, which threads decode. FLOP are counted, not assumed;
their ratio bounds what sharing towers and text can gain where arithmetic alone decides.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from benchmarks.reward_sizes import SIZES, write
from tgo.rewards import ftfy_tokens, official
from tgo.rewards.base import Batch, RewardModel
from tgo.rewards.cosine import CosineModel
from tgo.rewards.heads import LinearHead
from tgo.rewards.panel import Panel, load
from tgo.rewards.pictures import decode

Scores = dict[str, Tensor]
Rival = Callable[[Sequence[Image.Image], Sequence[str]], Scores]


def pictures(count: int, side: int) -> list[Image.Image]:
    """Smooth pictures with a little noise, so that a JPEG has the bytes of a photograph."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 12, 12, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)
    noisy = (smooth + 0.05 * torch.randn(smooth.shape, generator=generator)).clamp(0, 1)
    pixels = (noisy * 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(image) for image in pixels]


def decoded(images: Sequence[Image.Image]) -> Tensor:
    """Pixels uint8 [N, 3, H, W] of images of one size."""
    return torch.stack([decode(image).rgb for image in images])


class Ours:
    """The panel; what is given to it is decoded before the clock starts."""

    def __init__(self, panel: Panel, batch: int, pixels: Tensor) -> None:
        self.panel, self.batch, self.pixels = panel, batch, pixels

    def __call__(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Scores:
        self.panel.forget()
        return joined(
            self.panel.score(self.pixels[at : at + self.batch], prompts[at : at + self.batch])
            for at in range(0, len(prompts), self.batch)
        )


class FromJpeg(Ours):
    """The panel from encoded files: threads decode the batches to come."""

    def __init__(self, panel: Panel, batch: int, images: Sequence[Image.Image]) -> None:
        super().__init__(panel, batch, torch.empty(0))
        self.files = [_jpeg(image) for image in images]

    def __call__(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Scores:
        self.panel.forget()
        with ThreadPoolExecutor() as pool:
            coming = [pool.submit(decode, file) for file in self.files]
            return joined(
                self.panel.score(
                    [future.result() for future in coming[at : at + self.batch]],
                    prompts[at : at + self.batch],
                )
                for at in range(0, len(prompts), self.batch)
            )


class Separate:
    """Five models that share nothing."""

    def __init__(
        self, models: dict[str, RewardModel], batch: int, pixels: Tensor, device: str, cached: bool
    ) -> None:
        self.models, self.batch, self.pixels = models, batch, pixels
        self.device, self.cached = device, cached

    def __call__(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Scores:
        return {
            name: torch.cat(
                [
                    self._score(model, at, prompts[at : at + self.batch])
                    for at in range(0, len(prompts), self.batch)
                ]
            )
            for name, model in self.models.items()
        }

    @torch.inference_mode()
    def _score(self, model: RewardModel, at: int, prompts: Sequence[str]) -> Tensor:
        batch = Batch(self.pixels[at : at + self.batch], prompts, device=self.device)
        if self.cached or not isinstance(model, CosineModel):
            return model.score(batch).cpu()
        cosines = (model.tower.embed(batch) * model.encode_prompts(prompts)).sum(-1)
        return (model.scale * cosines).cpu()


class Card:
    """A model card's lines: transformers' model and Pillow processor, one image at a time."""

    def __init__(self, folder: str, device: str, head: LinearHead | None = None) -> None:
        self.model = CLIPModel.from_pretrained(folder, dtype=torch.float32).to(device).eval()
        size = self.model.config.vision_config.image_size
        sides = {"size": {"shortest_edge": size}, "crop_size": {"height": size, "width": size}}
        self.process = CLIPImageProcessorPil(**sides)
        length = self.model.config.text_config.max_position_embeddings
        self.tokenize = ftfy_tokens.tokenizer(length)
        self.head = head.to(device).eval() if head else None
        self.words = self.model.config.text_config.vocab_size

    @torch.inference_mode()
    def __call__(self, image: Image.Image, prompt: str) -> Tensor:
        pixels = self.process(image, return_tensors="pt")["pixel_values"].to(self.model.device)
        seen = normalize(self.model.get_image_features(pixel_values=pixels).pooler_output)
        if self.head is not None:
            return self.head(seen).cpu()
        # a miniature has fewer words: which ones they are does not change the time
        ids = self.tokenize([prompt]).clamp(max=self.words - 1).to(self.model.device)
        read = normalize(self.model.get_text_features(input_ids=ids).pooler_output)
        return (seen * read).sum(-1).cpu()


class Official:
    """The packages' own calls, and the model cards of the three that have none."""

    def __init__(self, sources: dict[str, str], device: str) -> None:
        self.packages = {
            name: official.load(name, sources[name], device=device)
            for name in ("hpsv2", "imagereward")
        }
        self.cards = {name: Card(sources[name], device) for name in ("pickscore", "clip")}
        self.cards["aesthetic"] = Card(sources["clip"], device, LinearHead(768))

    def __call__(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Scores:
        batch = Batch([decode(image) for image in images], prompts)
        scores = {name: package.score(batch) for name, package in self.packages.items()}
        for name, card in self.cards.items():
            scores[name] = torch.cat([card(*row) for row in zip(images, prompts, strict=True)])
        return scores


def joined(parts: Any) -> Scores:
    """Scores of several batches, one after the other: [N] of each model."""
    found = list(parts)
    return {name: torch.cat([part[name] for part in found]) for name in found[0]}


def measure(
    rivals: dict[str, Rival], images: Sequence[Image.Image], prompts: Sequence[str], repeats: int
) -> dict[str, float]:
    """Median images/s of each, in turns after one round to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for turn in range(repeats + 1):
        for name, rival in rivals.items():
            begin = time.perf_counter()
            rival(images, prompts)
            if turn:
                seconds[name].append(time.perf_counter() - begin)
    return {name: len(images) / statistics.median(took) for name, took in seconds.items()}


def main() -> None:
    """The command line; see the module."""
    options = _options()
    torch.set_num_threads(options.threads)
    count = options.images
    images = pictures(count, options.side)
    prompts = [f"a photograph of scene {at // options.per_prompt}, red" for at in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        sources = write(options.size, Path(folder), options.device)
        result = run(options, sources, images, prompts)
    print(json.dumps(result, indent=2))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


def run(
    options: argparse.Namespace,
    sources: dict[str, str],
    images: Sequence[Image.Image],
    prompts: Sequence[str],
) -> dict[str, Any]:
    """Everything measured, as JSON values."""
    device, dtype = options.device, getattr(torch, options.dtype)
    panel = Panel.load(sources, device=device, dtype=dtype)
    pixels = decoded(images)
    few = options.per_prompt
    flops = _flops(Ours(panel, few, pixels[:few]), images[:few], prompts[:few])
    if options.compile:
        panel.compile(options.batch)
    rivals: dict[str, Rival] = {"panel": Ours(panel, options.batch, pixels)}
    if options.jpeg:
        rivals["panel from JPEG"] = FromJpeg(panel, options.batch, images)
    alone = {name: load(name, place, device=device, dtype=dtype) for name, place in sources.items()}
    for name, cached in (("separate", True), ("separate, no cache", False)):
        rivals[name] = Separate(alone, options.batch, pixels, device, cached)
    uncached = Separate(alone, few, pixels[:few], device, cached=False)
    bound = _flops(uncached, images[:few], prompts[:few]) / flops
    if options.official:
        rivals["official"] = Official(sources, device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    speeds = measure(rivals, images, prompts, options.repeats)
    return {
        "settings": {k: str(v) for k, v in vars(options).items()},
        "images_per_s": speeds,
        "panel_is_faster_by": {name: speeds["panel"] / speed for name, speed in speeds.items()},
        "flop_ratio_separate_no_cache": bound,
        "gflop_per_image": flops / 1e9,
        "tflop_per_s": flops * speeds["panel"] / 1e12,
        "weights_gb": sum(
            p.numel() * p.element_size() for part in panel.networks() for p in part.parameters()
        )
        / 1e9,
        "peak_gb_of_all_rivals": _peak(device) / 1e9,
    }


def _flops(rival: Rival, images: Sequence[Image.Image], prompts: Sequence[str]) -> float:
    """Floating point operations an image costs, its share of the text included."""
    with FlopCounterMode(display=False) as counter:
        rival(images, prompts)
    return counter.get_total_flops() / len(prompts)


def _peak(device: str) -> int:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return file.getvalue()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="miniature")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--per-prompt", type=int, default=4)
    parser.add_argument("--side", type=int, default=512, help="of the pictures, in pixels")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--jpeg", action="store_true")
    parser.add_argument("--official", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.official and options.size == "miniature":
        parser.error("--official needs --size base or full: hpsv2 reads 77 tokens, a miniature 32")
    return options


if __name__ == "__main__":
    main()
