"""What a run will cost, from counted FLOPs and file sizes: arithmetic, nothing is loaded.

FLOPs are counted with torch's FlopCounterMode on the published configurations (SDXL and FLUX: on
one forward pass as published), batch of one, a multiply-add counted as two. Sizes are those of our
shards. What is assumed rather than counted stands in `SHARES`, `PNG_BYTES` and `cards`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from tgo.pipeline import layout
from tgo.pipeline.config.settings import Settings
from tgo.pipeline.storage import shards
from tgo.pipeline.tools import footprint
from tgo.pipeline.tools.footprint import Footprint

SHARES = {"sample": 0.40, "train": 0.28}
"""Shares of that peak which sampling and training are assumed to reach: an estimate, and the best
published figure for training SD 1.5's UNet. Measure yours with benchmarks/generate.py."""
PNG_BYTES = 1.6
"""Bytes a pixel of a photograph-like picture takes as PNG."""
CPU_SHARES = {"sample": 0.47, "train": 0.50}
"""Shares of a matrix product's speed on the same cores that the world's stages reach, images
scored and written: 9.9 images/s of stage one where two cores multiply at 0.16 TFLOP/s."""
LOADING = 20.0
"""Seconds a stage takes on a CPU until its first image: libraries, small models."""
READING = 0.27e9
"""Bytes of weights a second that a stage then reads on a CPU; of a rehearsal with SD 1.5."""
FULL, LORA = 4, 3
"""Forward passes a training step costs: the policy's with its gradient, and the reference's."""


@dataclass(frozen=True)
class Cost:
    """One image of a model; FLOPs in units of 10^12, sizes in bytes."""

    forward: float
    decode: float
    side: int  # pixels
    latents: int
    conditions: int  # of one prompt
    distilled: bool = False  # guidance is an input, not a second pass
    png: float = PNG_BYTES  # a pixel
    footprint: Footprint | None = None

    def at(self, side: int | None) -> Cost:
        """The cost of images of other pixels a side: in proportion to their area."""
        if side is None or side == self.side:
            return self
        scale = (side / self.side) ** 2
        return replace(
            self,
            forward=scale * self.forward,
            decode=scale * self.decode,
            side=side,
            latents=round(scale * self.latents),
            footprint=None if self.footprint is None else self.footprint.scaled(scale),
        )


_SD1 = Cost(0.803, 2.51, 512, 4 * 64 * 64 * 2, 77 * 768 * 2)
MODELS = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": _SD1,
    "CompVis/stable-diffusion-v1-4": _SD1,
    "stabilityai/stable-diffusion-xl-base-1.0": Cost(
        6.76, 10.47, 1024, 4 * 128 * 128 * 2, (77 * 2048 + 1280) * 2
    ),
    "stabilityai/stable-diffusion-3-medium-diffusers": Cost(
        8.44, 10.47, 1024, 16 * 128 * 128 * 2, (77 * 2048 + 256 * 4096 + 2048) * 2
    ),
    "stabilityai/stable-diffusion-3.5-medium": Cost(
        11.25, 10.47, 1024, 16 * 128 * 128 * 2, (77 * 2048 + 256 * 4096 + 2048) * 2
    ),
    "black-forest-labs/FLUX.1-dev": Cost(
        74.4, 10.47, 1024, 16 * 128 * 128 * 2, (512 * 4096 + 768) * 2, distilled=True
    ),
    "black-forest-labs/FLUX.2-dev": Cost(
        282.6, 10.47, 1024, 128 * 64 * 64 * 2, 512 * 15360 * 2, distilled=True
    ),
    "black-forest-labs/FLUX.2-klein-base-4B": Cost(
        34.8, 10.47, 1024, 128 * 64 * 64 * 2, 512 * 7680 * 2
    ),
    "black-forest-labs/FLUX.2-klein-base-9B": Cost(
        75.5, 10.47, 1024, 128 * 64 * 64 * 2, 512 * 12288 * 2
    ),
    "Qwen/Qwen-Image": Cost(69.3, 11.68, 1024, 16 * 128 * 128 * 2, 512 * (3584 * 2 + 1)),
    "Efficient-Large-Model/Sana_1600M_1024px_diffusers": Cost(
        2.97, 8.37, 1024, 32 * 32 * 32 * 2, 300 * (2304 * 2 + 1)
    ),
    "amused/amused-512": Cost(0.227, 1.91, 512, 32 * 32 * 4, (77 * 768 + 768) * 2),
    "MeissonFlow/Meissonic": Cost(1.48, 7.64, 1024, 64 * 64 * 4, 78 * 1024 * 2),
    "data/world/diffusion": Cost(0.00023, 0.00031, 64, 4 * 16 * 16 * 2, 24 * 96 * 2, png=0.87),
    "data/world/masked": Cost(0.00028, 0.00031, 64, 16 * 16 * 4, 25 * 96 * 2, png=0.87),
}
"""By generator.model; `known` adds those of `KNOWN`."""
SAME = {"CompVis/stable-diffusion-v1-4": "stable-diffusion-v1-5/stable-diffusion-v1-5"}
"""Models of one architecture."""
KNOWN = Path(__file__).with_name("known_models.json")
"""Published models by hub id, counted by benchmarks/published_models.py."""
REWARDS = {"pickscore": 0.335, "hpsv2": 0.335, "clip": 0.162, "imagereward": 0.138}
"""TFLOP a published reward model costs an image; `aesthetic` rides on CLIP's tower."""
REWARD_PARAMETERS = {
    "pickscore": 986_109_441,
    "hpsv2": 986_109_441,
    "imagereward": 445_803_009,
    "clip": 427_616_513,
    "aesthetic": 427_616_513,
}
"""Of the published reward models."""


def known(model: str) -> Cost | None:
    """The cost of a published model, or of one of the world; None of any other."""
    found = json.loads(KNOWN.read_text(encoding="utf-8")).get(SAME.get(model, model))
    if found is None:
        return MODELS.get(model)
    return Cost(**found | {"footprint": footprint.from_json(found["footprint"])})


class Work(NamedTuple):
    """Images a stage handles, and what one of them costs in TFLOP."""

    images: int
    each: float

    def hours(self, tflops: float) -> float:
        """Hours on devices that reach `tflops` TFLOP/s together."""
        return self.images * self.each / tflops / 3600


def scoring(settings: Settings, cost: Cost) -> Work:
    """Stage one: sampling, decoding, scoring."""
    return Work(_generated(settings), _image(settings, cost))


def training(settings: Settings, cost: Cost) -> Work:
    """Stage three: images seen, each with a forward and backward pass and the reference's."""
    train = settings.train
    passes = (FULL if train.lora is None else LORA) + train.gradient_checkpointing
    seen = train.steps * train.batch_size * train.draws
    return Work(seen, passes * cost.forward)


def evaluating(settings: Settings, cost: Cost) -> Work:
    """The evaluation: every test set, with the base and the tuned model."""
    rules = settings.evaluate
    images = 2 * len(settings.prompts.tests) * rules.prompts * rules.images_per_prompt
    return Work(images, _image(settings, cost))


def storage(images: int, prompts: int, cost: Cost) -> dict[str, float]:
    """Bytes of stage one's files, by kind, for so many images and prompts."""
    return {
        "images": images * cost.png * cost.side**2,
        "latents": float(images * cost.latents),
        "embeddings": float(prompts * cost.conditions),
    }


def stage_one(settings: Settings) -> tuple[int, int]:
    """Images and prompts of stage one: generated, or as many as were imported.

    Args:
        settings: those of the run; imported shards are looked for in data/scored.

    Returns:
        Images and prompts.

    Raises:
        InputError: an imported shard is damaged.
    """
    if not settings.imported:
        return _generated(settings), settings.score.prompts
    paths = shards.present(layout.SCORED)
    ids = {key for path in paths for key in shards.read_shard(path, ["prompt_id"])["prompt_id"]}
    return shards.count_rows(paths), len(ids)


def _generated(settings: Settings) -> int:
    """Images of stage one; none where they are imported."""
    return 0 if settings.imported else settings.score.prompts * settings.score.images_per_prompt


def _image(settings: Settings, cost: Cost) -> float:
    generator = settings.generator
    twice = generator.guidance_scale > 1 and not cost.distilled
    sampling = generator.steps * (1 + twice) * cost.forward
    return sampling + cost.decode + sum(map(_reward, settings.rewards.items()))


def reward_parameters(settings: Settings) -> Iterator[tuple[str, int]]:
    """Name and parameters of each reward model; `aesthetic` sits on CLIP's towers."""
    for name, entry in settings.rewards.items():
        if entry.source.startswith("data/world/") or (
            name == "aesthetic" and "clip" in settings.rewards
        ):
            continue
        yield name, REWARD_PARAMETERS.get(name, 0)


def _reward(named: tuple[str, object]) -> float:
    name, entry = named
    miniature = str(getattr(entry, "source", "")).startswith("data/world/")
    return 0.0 if miniature else REWARDS.get(name, 0.0)
