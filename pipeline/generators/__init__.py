"""The text-to-image models being aligned, one module per family."""

from __future__ import annotations

import importlib
import logging
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgo.pipeline.errors import InputError

if TYPE_CHECKING:
    from tgo.pipeline.config.settings import Generator
    from tgo.pipeline.generators.base import Family
    from tgo.pipeline.generators.folder_family import FolderFamily
    from tgo.pipeline.generators.model_folder import ModelFolder

FAMILIES = {
    "diffusion": "tgo.pipeline.generators.diffusion:Diffusion",
    "sdxl": "tgo.pipeline.generators.sdxl:StableDiffusionXL",
    "sd3": "tgo.pipeline.generators.sd3:StableDiffusion3",
    "flux": "tgo.pipeline.generators.flux:Flux",
    "chroma": "tgo.pipeline.generators.chroma:Chroma",
    "flux2": "tgo.pipeline.generators.flux2:Flux2",
    "qwenimage": "tgo.pipeline.generators.qwenimage:QwenImage",
    "sana": "tgo.pipeline.generators.sana:Sana",
    "zimage": "tgo.pipeline.generators.zimage:ZImage",
    "wan": "tgo.pipeline.generators.wan:Wan",
    "amused": "tgo.pipeline.generators.amused:Amused",
    "meissonic": "tgo.pipeline.generators.meissonic:Meissonic",
}
"""The registry of families: `generator.family` to its class, which is imported when chosen."""

MASKED = ("amused", "meissonic")
"""Families of token ids: they predict probabilities, and choose themselves what is hidden."""

PIPELINES = {
    "StableDiffusionPipeline": "diffusion",
    "StableDiffusionXLPipeline": "sdxl",
    "StableDiffusion3Pipeline": "sd3",
    "FluxPipeline": "flux",
    "ChromaPipeline": "chroma",
    "Flux2Pipeline": "flux2",
    "Flux2KleinPipeline": "flux2",
    "QwenImagePipeline": "qwenimage",
    "SanaPipeline": "sana",
    "ZImagePipeline": "zimage",
    "WanPipeline": "wan",
    "AmusedPipeline": "amused",
}
"""The pipeline that a model_index.json names to the family of its model."""

FEW_STEP_ADVICE = (
    "%s: is a model distilled to sample in a few steps; trained on single noise levels, as here, "
    "its images blur. Align the model it was distilled from (FLUX.1-dev, FLUX.2-klein-base, "
    "Z-Image), then load the adapters into the distilled one"
)


def family_class(name: str) -> type[FolderFamily]:
    """The class of a family in `FAMILIES`."""
    module, _, attribute = FAMILIES[name].partition(":")
    found: type[FolderFamily] = getattr(importlib.import_module(module), attribute)
    return found


def load_generator(
    settings: Generator, model: Path | None = None, *, device: str = "cpu", lazy: bool = False
) -> Family:
    """Load the model of `settings`, or another one (such as the tuned) of its family and sampler.

    Args:
        settings: the model and how it samples.
        model: another folder than theirs.
        device: where it is to be.
        lazy: whether a VAE is read when it is first used: training may never need it.

    Returns:
        The model, ready to sample.

    Raises:
        InputError: names the folder or file that is missing, damaged or does not fit.
    """
    from tgo.pipeline.generators.folder_family import LoadOptions
    from tgo.pipeline.generators.model_folder import ModelFolder

    folder = ModelFolder(str(model or settings.model))
    _require_family(folder, settings.family)
    names = {field.name for field in fields(LoadOptions)} - {"device", "lazy"}
    options = LoadOptions(**settings.model_dump(include=names), device=device, lazy=lazy)
    family: Any = family_class(settings.family)(folder, options)
    if family.is_few_step:
        logging.getLogger(__name__).warning(FEW_STEP_ADVICE, folder.path)
    loaded: Family = family
    return loaded


def _require_family(folder: ModelFolder, family: str) -> None:
    pipeline = str(folder.index.get("_class_name"))
    other = PIPELINES.get(pipeline, family)
    if other != family:
        raise InputError(
            f"{folder.path}: is a {pipeline}, which generator.family = {family!r} does not load; "
            f"set generator.family to {other}"
        )


def model_sha256(settings: Generator, model: Path | None = None) -> str:
    """The checksum by which shards and figures know a model; reads its files, loads no weights.

    Raises InputError: the folder is missing or no model folder.
    """
    from tgo.pipeline.generators.model_folder import ModelFolder

    folder = ModelFolder(str(model or settings.model))
    return folder.sha256(family_class(settings.family).parts_in(folder))
