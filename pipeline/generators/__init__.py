"""The text-to-image models being aligned, one module per family."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
"""The registry of families: `generator.family` to its class, which is imported when chosen."""


def family_class(name: str) -> type[Family]:
    """The class of a family in `FAMILIES`."""
    module, _, attribute = FAMILIES[name].partition(":")
    found: type[Family] = getattr(importlib.import_module(module), attribute)
    return found


def load_generator(
    settings: Generator, model: Path | None = None, *, device: str = "cpu"
) -> Family:
    """Load the model of `settings`, or another one (such as the tuned) of its family and sampler.

    Raises:
        InputError: names the folder or file that is missing, damaged or does not fit.
    """
    return family_class(settings.family).load(
        str(model or settings.model),
        **settings.model_dump(include={"steps", "guidance_scale", "dtype", "resolution"}),
        device=device,
    )


def model_sha256(settings: Generator, model: Path | None = None) -> str:
    """The checksum by which shards and figures know a model; reads its files, loads no weights.

    Raises:
        InputError: the folder is missing or no model folder.
    """
    from tgo.pipeline.generators.model_folder import ModelFolder

    family: Any = family_class(settings.family)
    return ModelFolder(str(model or settings.model)).sha256(family.parts)
