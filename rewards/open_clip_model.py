"""Any CLIP of open_clip, multilingual ones and SigLIP included: cosine of image and prompt.

    rewards:
      siglip: {module: tgo.rewards.open_clip_model, source: timm/ViT-B-16-SigLIP}
      multilingual:
        module: tgo.rewards.open_clip_model
        source: laion/CLIP-ViT-B-32-xlm-roberta-base-laion5B-s13B-b90k

`source` is a hub repository, or a folder, in open_clip's own layout: `open_clip_config.json`, the
weights, and a tokenizer where the text tower is not CLIP's. Pictures go through open_clip's
transform one by one, as its documentation does it. The built-in models share decoding and towers
and are faster; this one takes whatever open_clip knows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tgo.rewards import checkpoint
from tgo.rewards.base import Batch, Provenance
from tgo.rewards.checksum import file_sha256
from tgo.rewards.errors import CheckpointError
from tgo.rewards.source import Files, Source
from tgo.rewards.texts import Encoder

CONFIG = "open_clip_config.json"
TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json",
    "merges.txt", "vocab.txt", "sentencepiece.bpe.model", "spiece.model",
)  # fmt: skip
FILES = Files(
    weights=(
        "open_clip_model.safetensors",
        "open_clip_pytorch_model.safetensors",
        "open_clip_pytorch_model.bin",
    ),
    needed=(CONFIG,),
    optional=TOKENIZER,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenClip(Provenance):
    """Cosine similarity of an image and its prompt."""

    name: ClassVar[str] = "open_clip"
    model: str  # type: ignore[misc]
    unit: ClassVar[str] = "cosine"

    encode_image: Callable[[Tensor], Tensor] = field(repr=False)
    encode_prompts: Encoder = field(repr=False)
    transform: Callable[[Any], Tensor] = field(repr=False)
    place: torch.device = field(repr=False)

    @torch.inference_mode()
    def score(self, batch: Batch) -> Tensor:
        """float32 [B]."""
        pixels = [self.transform(batch.pillow(n).convert("RGB")) for n in range(len(batch))]
        features = self.encode_image(torch.stack(pixels).to(self.place)).float()
        texts = batch.embed_prompts(self.encode_prompts)
        return (normalize(features, dim=-1) * texts.to(self.place)).sum(-1)


def load(
    source: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> OpenClip:
    """The model in a folder or hub repository.

    Args:
        source: where `open_clip_config.json` and the weights lie.
        device: where to score.
        dtype: what both towers compute in.

    Returns:
        The reward model.

    Raises:
        CheckpointError: the folder lacks a file, or open_clip cannot make a model of it.
    """
    import open_clip

    place = Source(source, FILES)
    if place.missing():
        raise CheckpointError(f"{place.folder}: holds no {', '.join(place.missing())}; add it")
    where = f"local-dir:{place.folder}"
    try:
        network, transform = open_clip.create_model_from_pretrained(where)
        tokenize = open_clip.get_tokenizer(where)
    except (OSError, ValueError, RuntimeError, TypeError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{place.folder}: open_clip cannot load it ({reason}); take the folder as published, "
            "or another model"
        ) from error
    network = network.to(device, dtype).eval()
    return OpenClip(
        model=place.repo or place.folder.name,
        version="as in its folder",
        checkpoint_sha256=file_sha256(place.weights()),
        dtype=str(dtype).removeprefix("torch."),
        preprocessing=" ".join(str(transform).split()),
        files=checkpoint.checksums(place.folder, CONFIG, *TOKENIZER),
        encode_image=lambda pixels: network.encode_image(pixels.to(dtype)),
        encode_prompts=_text_encoder(network, tokenize, torch.device(device)),
        transform=transform,
        place=torch.device(device),
        networks=(network,),
    )


def _text_encoder(network: Any, tokenize: Any, device: torch.device) -> Encoder:
    @torch.inference_mode()
    def encode(prompts: Sequence[str]) -> Tensor:
        return normalize(network.encode_text(tokenize(list(prompts)).to(device)).float(), dim=-1)

    return encode
