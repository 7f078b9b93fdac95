"""The text-to-image models being aligned, one module per family."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tgo.pipeline.config.settings import Generator
    from tgo.pipeline.generators.base import Family

FAMILIES = {
    "diffusion": "tgo.pipeline.generators.diffusion:Diffusion",
    "sdxl": "tgo.pipeline.generators.sdxl:StableDiffusionXL",
    "sd3": "tgo.pipeline.generators.sd3:StableDiffusion3",
    "flux": "tgo.pipeline.generators.flux:Flux",
    "zimage": "tgo.pipeline.generators.zimage:ZImage",
    "wan": "tgo.pipeline.generators.wan:Wan",
    "amused": "tgo.pipeline.generators.amused:Amused",
    "meissonic": "tgo.pipeline.generators.meissonic:Meissonic",
}
"""generator.family in params.yaml -> the class; imported only when chosen."""


def load_generator(
    settings: Generator, model: Path | None = None, *, device: str = "cpu"
) -> Family:
    """The model of `settings`, or another one (say, the tuned) of its family and sampler.

    Raises InputError naming the folder or file that is missing, truncated or does not fit.
    """
    module, _, name = FAMILIES[settings.family].partition(":")
    family: Family = getattr(importlib.import_module(module), name).load(
        str(model or settings.model),
        steps=settings.steps,
        guidance_scale=settings.guidance_scale,
        dtype=settings.dtype,
        device=device,
        resolution=settings.resolution,
    )
    return family
