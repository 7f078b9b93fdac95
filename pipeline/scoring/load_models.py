"""The models of a run as its settings name them, loaded on one device."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tgo.pipeline.runtime import require_compiler

if TYPE_CHECKING:
    from tgo.pipeline.config.settings import Settings
    from tgo.pipeline.generators.base import Family
    from tgo.rewards.panel import Panel


def load_family(settings: Settings, device: str, model: Path | None = None) -> Family:
    """The generator of the settings, or another `model` of its family, compiled if they say so."""
    from tgo.pipeline.generators import load_generator

    family = load_generator(settings.generator, model, device=device)
    if settings.generator.compile:
        require_compiler("generator.compile", len(settings.generator.sizes))
        family.network.compile(dynamic=False)
    return family


def load_panel(settings: Settings, device: str) -> Panel:
    """The reward models of the settings on a device, compiled if the settings say so."""
    import torch

    from tgo.rewards.panel import Panel

    entries = {name: entry.model_dump() for name, entry in settings.rewards.items()}
    dtype = getattr(torch, settings.generator.dtype)
    panel = Panel.load(entries, device=device, dtype=dtype)
    if settings.generator.offload:
        panel.offload()
    if settings.score.compile:
        require_compiler("score.compile")
        panel.compile(settings.score.batch_size)
    return panel
