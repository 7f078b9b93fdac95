"""Loading and sampling the tiny models of `tests.family_models`, for the tests of all families."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.family_models import write as write_latent
from tests.family_parts import resolution
from tests.masked_models import write_random_amused, write_random_meissonic
from tgo.pipeline.generators import family_class
from tgo.pipeline.generators.base import Conditions, Corruption, Family, select_rows
from tgo.pipeline.generators.latent import Latent
from tgo.pipeline.generators.sizes import Size

PROMPTS = ["a red circle", "a blue square on a dog"]
SEEDS = [7, 2**62 + 1]
GUIDANCE = 3.0
FLOWS = ["sd3", "flux", "chroma", "flux2", "qwenimage", "sana", "zimage", "wan"]
MASKED = {"amused": write_random_amused, "meissonic": write_random_meissonic}
FAMILY_OF = {
    "sd15": "diffusion",
    "sd21": "diffusion",
    "sdxl-other": "sdxl",
    "sd3-without-t5": "sd3",
    "flux2-distilled": "flux2",
    "flux2-dev": "flux2",
}


def write(kind: str, folder: Path) -> Path:
    """Save the tiny model of a kind, latent or masked."""
    return MASKED.get(kind, lambda path: write_latent(kind, path))(folder)


class Loaded(Latent, Family):
    """Type of a loaded latent family: `Latent` with the methods its subclasses implement."""


def load(kind: str, source: Path | str, **changes: Any) -> Loaded:
    options = {
        "steps": 3,
        "guidance_scale": GUIDANCE,
        "dtype": "float32",
        "device": "cpu",
        "resolution": resolution(kind),
    }
    family: Any = family_class(FAMILY_OF.get(kind, kind))
    found: Loaded = family.load(str(source), **{**options, **changes})
    return found


def sample(
    family: Any, prompts: list[str], seeds: list[int], size: Size | None = None
) -> torch.Tensor:
    encoded = family.encode_prompts([*prompts, ""])
    given, empty = select_rows(encoded, slice(-1)), select_rows(encoded, -1)
    latents: torch.Tensor = family.sample(given, empty, family.initial_noise(seeds, size))
    return latents


def case(family: Loaded) -> tuple[torch.Tensor, Conditions, Corruption]:
    latents = family.initial_noise([3, 4])
    drawn = family.corrupt(latents, torch.Generator().manual_seed(5))
    assert drawn.noise.shape == latents.shape
    return latents, family.encode_prompts(PROMPTS), drawn
