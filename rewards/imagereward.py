"""ImageReward (Xu et al. 2023): BLIP reads prompt and image together, a linear head scores.

`(head(h_CLS) - 0.16717...) / 1.03334...`, the published standardisation, about -2 to 2.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from transformers import BertTokenizer

from tgo.rewards import checkpoint, weight_files
from tgo.rewards.base import Batch, Provenance
from tgo.rewards.blip import TextConfig, TextEncoder, VisionConfig, VisionEncoder
from tgo.rewards.checksum import file_sha256
from tgo.rewards.errors import CheckpointError
from tgo.rewards.heads import Affine, LinearHead, collapse
from tgo.rewards.images import View
from tgo.rewards.source import Files, Source
from tgo.rewards.texts import cut

MEAN, STD = 0.16717362830052426, 1.0333394966054072
"""The standardisation that the official package subtracts and divides by."""

MAX_TOKENS = 35
WEIGHTS, TEXT_CONFIG, VISION_CONFIG, VOCABULARY = (
    "ImageReward.pt",
    "med_config.json",
    "vision_config.json",
    "vocab.txt",
)
FILES = Files(
    weights=(WEIGHTS,),
    needed=(TEXT_CONFIG,),
    optional=(VISION_CONFIG, VOCABULARY),
    published="THUDM/ImageReward",
)
BERT = "google-bert/bert-base-uncased"
"""Whose vocabulary ImageReward reads with, for a hub repository that has none of its own."""


class Blip(nn.Module):
    """The two encoders; the projections are BLIP's contrastive ones, published but not scored."""

    def __init__(self, text: TextConfig, vision: VisionConfig) -> None:
        super().__init__()
        self.visual_encoder = VisionEncoder(vision)
        self.text_encoder = TextEncoder(text, vision.width)
        self.vision_proj = nn.Linear(vision.width, 256)
        self.text_proj = nn.Linear(text.hidden_size, 256)


class ImageRewardNetwork(nn.Module):
    """The trainable network; its state dict has the keys of the published `ImageReward.pt`."""

    def __init__(self, text: TextConfig | None = None, vision: VisionConfig | None = None) -> None:
        super().__init__()
        self.text_config = text or TextConfig()
        self.vision_config = vision or VisionConfig()
        self.blip = Blip(self.text_config, self.vision_config)
        self.mlp = LinearHead(self.text_config.hidden_size)

    def features(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """[CLS] states [B, D] of prompts (ids, mask [B, L]) read beside pixels [B, 3, S, S]."""
        return self.blip.text_encoder(ids, mask, self.blip.visual_encoder(pixels))[:, 0]

    def logits(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Raw rewards [B], before the published standardisation; differentiable."""
        return self.mlp(self.features(pixels, ids, mask))


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageReward(Provenance):
    """Scores a batch; every image is read together with its own prompt, so no text is cached."""

    name: ClassVar[str] = "imagereward"
    model: ClassVar[str] = "THUDM/ImageReward"
    unit: ClassVar[str] = "standardised reward"
    usual_range: ClassVar[tuple[float, float]] = (-2.0, 2.0)

    network: ImageRewardNetwork = field(repr=False)
    tokenizer: BertTokenizer = field(repr=False)
    head: Affine = field(repr=False)
    view: View = field(repr=False)

    @torch.inference_mode()
    def score(self, batch: Batch) -> Tensor:
        """float32 [B]."""
        dtype = self.network.blip.text_proj.weight.dtype
        ids, mask = tokenize(self.tokenizer, batch.prompts)
        ends = mask.sum(dim=1) - 1
        ids, mask = (cut(x, ends).to(batch.device) for x in (ids, mask))
        features = self.network.features(batch.pixels(self.view, dtype), ids, mask)
        return (self.head(features) - MEAN) / STD


def tokenize(tokenizer: BertTokenizer, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask [B, 35], both int64."""
    tokens = tokenizer(
        list(prompts),
        padding="max_length",
        truncation=True,
        max_length=MAX_TOKENS,
        return_tensors="pt",
    )
    return tokens["input_ids"], tokens["attention_mask"]


def vocabulary(place: Source) -> Path:
    """`vocab.txt`: beside the weights, or for a hub id that of bert-base-uncased."""
    if not place.has(VOCABULARY) and place.repo is not None:
        return Source(BERT, Files((VOCABULARY,))).weights()
    if not place.has(VOCABULARY):
        raise CheckpointError(f"{place.folder}: holds no {VOCABULARY}; add bert-base-uncased's")
    return place.folder / VOCABULARY


def load_tokenizer(path: Path) -> BertTokenizer:
    """BERT's WordPiece with the two tokens that BLIP adds at its end.

    `path` is a `vocab.txt`, or the folder that holds it.
    """
    path = path / VOCABULARY if path.is_dir() else path
    with weight_files.reading(path, "use bert-base-uncased's"):
        words = path.read_text(encoding="utf-8").splitlines()
        tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(words)})
        tokenizer.add_special_tokens({"bos_token": "[DEC]"})
        tokenizer.add_special_tokens({"additional_special_tokens": ["[ENC]"]})
    return tokenizer


def load(
    source: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> ImageReward:
    """The model in `source`, a folder or hub id: weights, `med_config.json` and `vocab.txt`.

    A `vision_config.json` beside them gives other sizes than the published ViT-L/16. Without it
    the weights must be the published ones, by checksum. Raises CheckpointError.
    """
    place = Source(source, FILES)
    path = place.weights()
    digest = file_sha256(path)
    vision = vision_config(place, path, digest)
    with checkpoint.described_by(place.folder / TEXT_CONFIG):
        network = ImageRewardNetwork(TextConfig.from_med_config(place.json(TEXT_CONFIG)), vision)
    checkpoint.load_strict(network, weight_files.read_tensors(path), path)
    words = vocabulary(place)
    tokenizer = load_tokenizer(words)
    if len(tokenizer) != network.text_config.vocab_size:
        raise CheckpointError(
            f"{words}: {len(tokenizer)} tokens with [DEC] and [ENC], but "
            f"{TEXT_CONFIG} says {network.text_config.vocab_size}; use the model's own vocabulary"
        )
    view = View(vision.image_size)
    return ImageReward(
        version=checkpoint.version_of(digest, {WEIGHTS: "1.0"}),
        checkpoint_sha256=digest,
        dtype=str(dtype).removeprefix("torch."),
        preprocessing=str(view),
        files=checkpoint.checksums(place.folder, TEXT_CONFIG, VISION_CONFIG)
        | checkpoint.checksums(words.parent, VOCABULARY),
        network=network.to(device, dtype).eval(),
        tokenizer=tokenizer,
        head=collapse(network.mlp).to(torch.device(device)),
        networks=(network.blip.visual_encoder, network.blip.text_encoder),
        view=view,
    )


def vision_config(place: Source, path: Path, digest: str) -> VisionConfig:
    """Sizes of the image encoder of the weights at `path`, which have the sha256 `digest`."""
    if place.has(VISION_CONFIG):
        with checkpoint.described_by(place.folder / VISION_CONFIG):
            return VisionConfig(**place.json(VISION_CONFIG))
    remedy = f"put a {VISION_CONFIG} beside a model of other weights"
    checkpoint.require_published(path, digest, WEIGHTS, remedy)
    return VisionConfig()


def save(folder: str | Path, network: ImageRewardNetwork, vocabulary: Sequence[str]) -> None:
    """Writes `network` in the published format, weights in float16, as `load` reads it.

    `vocabulary` are the lines of `vocab.txt`, without [DEC] and [ENC], which come after it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(checkpoint.half(network.state_dict()), folder / WEIGHTS)
    text = {
        "hidden_act": "gelu",
        "add_cross_attention": True,
        "encoder_width": network.vision_config.width,
        **asdict(network.text_config),
    }
    for name, config in ((TEXT_CONFIG, text), (VISION_CONFIG, asdict(network.vision_config))):
        (folder / name).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (folder / VOCABULARY).write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
