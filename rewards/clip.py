"""CLIP score (Radford et al. 2021; Hessel et al. 2021): cosine of OpenAI's ViT-L/14.

The plain cosine, usually .15 to .35, not the papers' rescaled 2.5 * max(cos, 0).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from torch import nn
from transformers import CLIPModel

from tgo.rewards import checkpoint, ftfy_tokens, huggingface
from tgo.rewards.checksum import file_sha256
from tgo.rewards.cosine import CosineModel, ImageTower
from tgo.rewards.errors import CheckpointError
from tgo.rewards.images import View
from tgo.rewards.source import Files, Source

PUBLISHED = "openai/clip-vit-large-patch14"
FILES = Files(weights=(huggingface.WEIGHTS,), needed=(huggingface.CONFIG,), published=PUBLISHED)


@dataclass(frozen=True, kw_only=True, eq=False)
class Clip(CosineModel):
    """Cosine similarity of an image and its prompt."""

    name: ClassVar[str] = "clip"
    model: ClassVar[str] = PUBLISHED
    unit: ClassVar[str] = "cosine"
    usual_range: ClassVar[tuple[float, float]] = (0.15, 0.35)


class Tower(NamedTuple):
    """A loaded CLIP; the Aesthetic predictor sits on the same one."""

    network: CLIPModel
    images: ImageTower
    checkpoint_sha256: str
    version: str
    files: dict[str, str]
    networks: tuple[nn.Module, ...]


def load_tower(
    source: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tower:
    """The CLIP in a Hugging Face folder or repository; raises CheckpointError."""
    place = Source(source, FILES)
    path = place.weights()
    digest = file_sha256(path)
    if place.repo == PUBLISHED:
        checkpoint.require_published(path, digest, PUBLISHED, "name a folder with other weights")
    network = huggingface.load_network(place, named=PUBLISHED, activation="quick_gelu", path=path)
    view = View(network.config.vision_config.image_size)
    network = network.to(device, dtype).eval()
    return Tower(
        network=network,
        images=huggingface.image_tower(network, view),
        checkpoint_sha256=digest,
        version=checkpoint.version_of(digest, {PUBLISHED: PUBLISHED}),
        files=checkpoint.checksums(place.folder, huggingface.CONFIG),
        networks=huggingface.towers(network)[:1],
    )


def load(
    source: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Clip:
    """The CLIP score of a Hugging Face folder or repository; raises CheckpointError."""
    return from_tower(load_tower(source, device=device, dtype=dtype), source)


def from_tower(tower: Tower, source: str | Path) -> Clip:
    """The CLIP score on a tower that is already loaded from `source`."""
    text = tower.network.config.text_config
    if text.vocab_size != ftfy_tokens.VOCABULARY:
        raise CheckpointError(
            f"{source}: text_config.vocab_size is {text.vocab_size}, but OpenAI's tokenizer has "
            f"{ftfy_tokens.VOCABULARY}; use a model of that vocabulary"
        )
    tokenize = ftfy_tokens.tokenizer(text.max_position_embeddings)
    return Clip(
        version=tower.version,
        checkpoint_sha256=tower.checkpoint_sha256,
        dtype=str(tower.images.dtype).removeprefix("torch."),
        preprocessing=str(tower.images.view),
        files=tower.files,
        tower=tower.images,
        encode_prompts=huggingface.text_encoder(tower.network, tokenize, ftfy_tokens.END),
        networks=huggingface.towers(tower.network),
    )


def save(folder: str | Path, network: CLIPModel) -> None:
    """Writes a CLIP of 49,408 tokens and quick GELU in the published format, in float16."""
    huggingface.save_network(Path(folder), network)
