"""All reward models on one batch: what they have in common is computed once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rewards import aesthetic, clip
from rewards.base import Batch, RewardModel, describe
from rewards.errors import CheckpointError
from rewards.texts import TextStore

MODULES = {
    "pickscore": "rewards.pickscore",
    "hpsv2": "rewards.hpsv2",
    "imagereward": "rewards.imagereward",
    "clip": "rewards.clip",
    "aesthetic": "rewards.aesthetic",
}
"""Where each model's `load(source, *, device, dtype)` is; imported when first wanted."""


def load(
    name: str,
    source: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> RewardModel:
    """One reward model by name; raises CheckpointError."""
    if name not in MODULES:
        raise CheckpointError(f"{name}: no such reward model; there are {', '.join(MODULES)}")
    return import_module(MODULES[name]).load(source, device=device, dtype=dtype)


class Panel:
    """Scores a batch with every model: one decode, one crop, one pass of a shared CLIP tower,
    one text embedding per unique prompt, and image i only ever compared with prompt i.

    Towers compute in `dtype`; the last normalisation, dot product and head are float32.
    """

    def __init__(
        self, models: Mapping[str, RewardModel], *, device: str | torch.device = "cpu"
    ) -> None:
        self._models = dict(models)
        self._device = torch.device(device)
        self._texts = TextStore()
        self.names = tuple(self._models)

    @classmethod
    def load(
        cls,
        sources: Mapping[str, str],
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Panel:
        """The models named in `sources`, in its order; raises CheckpointError.

        `aesthetic` sits on the CLIP that its folder names, or else on that of `clip`; where the
        two are the same folder its tower is loaded and run once.
        """
        models = {
            name: load(name, source, device=device, dtype=dtype)
            for name, source in sources.items()
            if name not in ("clip", "aesthetic")
        }
        models |= _on_clip(sources, device, dtype)
        return cls({name: models[name] for name in sources}, device=device)

    def only(self, names: Sequence[str]) -> Panel:
        """The same models, fewer of them."""
        return Panel({name: self._models[name] for name in names}, device=self._device)

    @torch.inference_mode()
    def score(self, images: Tensor, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Scores of images (uint8 RGB [B, 3, H, W]) for their prompts: float32 [B] on the CPU."""
        batch = Batch(images.to(self._device), prompts, self._texts)
        scores = {name: model.score(batch) for name, model in self._models.items()}
        return {name: score.cpu() for name, score in scores.items()}

    def describe(self) -> dict[str, dict[str, Any]]:
        """Per model what decides its scores: goes into fingerprints and shard metadata."""
        return {name: describe(model) for name, model in self._models.items()}

    def forget(self) -> None:
        """Drops cached text embeddings.

        A cached embedding was computed in another company of prompts and may differ in its last
        bit; called before each shard, this makes the shard's bytes independent of the others.
        """
        self._texts.clear()


def _on_clip(
    sources: Mapping[str, str], device: str | torch.device, dtype: torch.dtype
) -> dict[str, RewardModel]:
    """`clip` and `aesthetic` where wanted, each CLIP folder loaded once."""
    towers: dict[Path, clip.Tower] = {}

    def tower(source: str | Path) -> clip.Tower:
        place = Path(source).resolve()
        if place not in towers:
            towers[place] = clip.load_tower(source, device=device, dtype=dtype)
        return towers[place]

    models: dict[str, RewardModel] = {}
    if "clip" in sources:
        models["clip"] = clip.from_tower(tower(sources["clip"]), sources["clip"])
    if "aesthetic" in sources:
        head = sources["aesthetic"]
        base = aesthetic.clip_source(head) or sources.get("clip")
        on = None if base is None else tower(base)
        models["aesthetic"] = aesthetic.load(head, device=device, dtype=dtype, clip=on)
    return models
