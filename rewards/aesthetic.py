"""LAION Aesthetic predictor v2 (Schuhmann et al. 2022): a linear head on CLIP ViT-L/14.

A rating from 1 to 10, mostly 4.5 to 7; the prompt is not read.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from tgo.rewards import checkpoint, weight_files
from tgo.rewards.base import Batch, Provenance
from tgo.rewards.checksum import file_sha256
from tgo.rewards.clip import PUBLISHED, Tower, load_tower
from tgo.rewards.cosine import ImageTower
from tgo.rewards.errors import CheckpointError
from tgo.rewards.heads import Affine, LinearHead, collapse
from tgo.rewards.source import Files, Source, hub_id

WEIGHTS = "sac+logos+ava1-l14-linearMSE.pth"
CONFIG = "aesthetic_config.json"
FILES = Files(weights=(WEIGHTS,), optional=(CONFIG,))
EMBEDDING = 768


@dataclass(frozen=True, kw_only=True, eq=False)
class Aesthetic(Provenance):
    """Rating of an image by itself."""

    name: ClassVar[str] = "aesthetic"
    model: ClassVar[str] = "christophschuhmann/improved-aesthetic-predictor"
    unit: ClassVar[str] = "rating 1 to 10"
    usual_range: ClassVar[tuple[float, float]] = (4.5, 7.0)

    tower: ImageTower = field(repr=False)
    head: Affine = field(repr=False)

    @torch.inference_mode()
    def score(self, batch: Batch) -> Tensor:
        """float32 [B]."""
        return self.head(self.tower.embed(batch))


def clip_source(source: str | Path) -> str | None:
    """The CLIP that `aesthetic_config.json` beside the head names.

    A folder relative to it, or a hub id.
    """
    place = Source(source, FILES)
    if not place.has(CONFIG):
        return None
    with checkpoint.described_by(place.folder / CONFIG):
        named = str(place.json(CONFIG)["clip"])
    beside = os.path.normpath(place.folder / named)
    return named if hub_id(named) and not os.path.exists(beside) else beside


def load(
    source: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    clip: Tower | str | Path | None = None,
) -> Aesthetic:
    """The head in `source` on a CLIP tower.

    `clip` is that tower, loaded or as a folder; left out, it is the one that
    `aesthetic_config.json` names. Raises CheckpointError.
    """
    place = Source(source, FILES)
    path = place.weights()
    clip = clip if clip is not None else clip_source(source)
    if clip is None:
        raise CheckpointError(
            f"{path}: which CLIP does it sit on? Name {PUBLISHED} under `clip`, or write "
            f'{{"clip": "<folder>"}} to {place.folder / CONFIG}'
        )
    tower = clip if isinstance(clip, Tower) else load_tower(clip, device=device, dtype=dtype)
    if tower.images.width != EMBEDDING:
        raise CheckpointError(
            f"{path}: needs a CLIP with embeddings of {EMBEDDING}, not {tower.images.width}"
        )
    head = LinearHead(EMBEDDING)
    checkpoint.load_strict(head, weight_files.read_tensors(path), path)
    digest = file_sha256(path)
    if not place.has(CONFIG):
        remedy = f"put an {CONFIG} beside a head of your own"
        checkpoint.require_published(path, digest, WEIGHTS, remedy)
    return Aesthetic(
        version=checkpoint.version_of(digest, {WEIGHTS: WEIGHTS.removesuffix(".pth")}),
        checkpoint_sha256=digest,
        dtype=str(tower.images.dtype).removeprefix("torch."),
        preprocessing=str(tower.images.view),
        files={
            "clip": tower.checkpoint_sha256,
            **{f"clip/{name}": digest for name, digest in tower.files.items()},
        },
        tower=tower.images,
        head=collapse(head).to(torch.device(device)),
        networks=tower.networks,
    )


def save(folder: str | Path, head: LinearHead, clip: str) -> None:
    """Writes the head in the published format (float32, as published) and the place of its CLIP.

    `clip` is relative to `folder`, "../clip" say.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({k: v.detach().cpu() for k, v in head.state_dict().items()}, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps({"clip": clip}) + "\n", encoding="utf-8")
