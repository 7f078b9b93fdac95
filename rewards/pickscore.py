"""PickScore (Kirstain et al. 2023): `exp(logit_scale) * cos` of a fine-tuned CLIP ViT-H/14.

Usually 17 to 24. Papers also print it times 100 over the logit scale, or divided by 26.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from tgo.rewards import checkpoint, huggingface, weight_files
from tgo.rewards.checksum import file_sha256
from tgo.rewards.cosine import CosineModel
from tgo.rewards.errors import CheckpointError
from tgo.rewards.images import View
from tgo.rewards.source import Files, Source

PUBLISHED = "yuvalkirstain/PickScore_v1"
FILES = Files(
    weights=(huggingface.WEIGHTS,),
    needed=(huggingface.CONFIG,),
    optional=huggingface.TOKENIZER_FILES,
    published=PUBLISHED,
)
PROCESSOR = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
"""Whose tokenizer the model card names, for a hub repository that has none of its own."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PickScore(CosineModel):
    """The model's logit scale times the cosine of image and prompt embeddings."""

    name: ClassVar[str] = "pickscore"
    model: ClassVar[str] = PUBLISHED
    unit: ClassVar[str] = "logit scale x cosine"
    usual_range: ClassVar[tuple[float, float]] = (17.0, 24.0)


def load(
    source: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> PickScore:
    """The model in a Hugging Face folder or repository, with its tokenizer.

    Raises CheckpointError.
    """
    place = Source(source, FILES)
    path = place.weights()
    network = huggingface.load_network(place, named=PUBLISHED, activation="gelu", path=path)
    scale = network.logit_scale.double().exp().item()
    view = View(network.config.vision_config.image_size, centre="floor", convert="white")
    words = _tokenizer_folder(place)
    tokenize, end = _tokenizer(words, place, network)
    network = network.to(device, dtype).eval()
    return PickScore(
        version=checkpoint.UNPUBLISHED,
        checkpoint_sha256=file_sha256(path),
        dtype=str(dtype).removeprefix("torch."),
        preprocessing=str(view),
        files=checkpoint.checksums(place.folder, huggingface.CONFIG)
        | checkpoint.checksums(words, *huggingface.TOKENIZER_FILES),
        tower=huggingface.image_tower(network, view),
        encode_prompts=huggingface.text_encoder(network, tokenize, end),
        scale=scale,
        networks=huggingface.towers(network),
    )


def _tokenizer_folder(place: Source) -> Path:
    """Where the tokenizer lies: beside the weights, or for a hub id in the model card's."""
    if any(place.has(name) for name in ("tokenizer.json", "vocab.json")):
        return place.folder
    if place.repo is None:
        raise CheckpointError(f"{place.folder}: holds no tokenizer.json; add the tokenizer's files")
    return Source(PROCESSOR, Files(huggingface.TOKENIZER_FILES[:1], optional=FILES.optional)).folder


def _tokenizer(
    folder: Path, place: Source, network: CLIPModel
) -> tuple[Callable[[Sequence[str]], Tensor], int]:
    """The tokenizer in `folder`, cut and padded to the model's length, and its end token."""
    with weight_files.reading(folder, "use the tokenizer files of the checkpoint"):
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    text = network.config.text_config
    if len(tokenizer) != text.vocab_size:
        raise CheckpointError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens, the model "
            f"{text.vocab_size}; use the model's own tokenizer"
        )
    # transformers reads the last state at the largest id where a config has the old value 2.
    end = text.vocab_size - 1 if text.eos_token_id == 2 else text.eos_token_id
    if tokenizer.eos_token_id != end:
        raise CheckpointError(
            f"{place.folder / huggingface.CONFIG}: text is read at token {end}, but the "
            f"tokenizer ends with {tokenizer.eos_token_id}; set text_config.eos_token_id to it"
        )
    length = text.max_position_embeddings

    def tokenize(prompts: Sequence[str]) -> Tensor:
        tokens = tokenizer(
            list(prompts),
            padding="max_length",
            truncation=True,
            max_length=length,
            return_tensors="pt",
        )
        return tokens["input_ids"]

    return tokenize, end


def save(folder: str | Path, network: CLIPModel, tokenizer: CLIPTokenizer) -> None:
    """Writes network (float16) and tokenizer in the published format, as `load` reads it."""
    folder = Path(folder)
    huggingface.save_network(folder, network)
    tokenizer.save_pretrained(folder)
