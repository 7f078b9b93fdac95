"""The world's CLIP: contrastive on the bank's captions, as Radford et al. 2021 on the web's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPModel

from data.world.bank import Bank
from data.world.fit import fit
from data.world.render import SIDE
from data.world.scene import caption, confuse, parse
from data.world.towers import PATCH, WIDTH, WORDS, clip_config, pixels
from rewards import ftfy_tokens

BATCH = 112
HARD = 3  # nearly right captions for each picture
STEPS = 3000

REMARKS = (  # what web captions say about each of render.QUALITIES when it is low or high
    ("washed out", "vivid"),
    ("blurry", "sharp"),
    ("stained", "even"),
    ("cluttered", "tidy"),
)


def remark(rng: np.random.Generator, quality: NDArray[np.float32]) -> tuple[str, str]:
    """What a caption may add about one quality that is low or high, and its opposite."""
    which = int(rng.integers(len(REMARKS)))
    low, high = (f", {word}" for word in REMARKS[which])
    if rng.random() < 0.5 or 0.4 <= quality[which] <= 0.85:
        return "", ""
    return (low, high) if quality[which] < 0.4 else (high, low)


def describe(rng: np.random.Generator, told: str, quality: NDArray[np.float32]) -> list[str]:
    """A picture's caption, then HARD that are nearly it: words swapped, or the remark untrue."""
    true, untrue = remark(rng, quality)
    near = [caption(confuse(rng, parse(told))) + true for _ in range(HARD)]
    if untrue:
        near[-1] = told + untrue
    return [told + true, *near]


def place_patches(model: CLIPModel) -> None:
    """Start position embeddings as sines and cosines (Beyer et al. 2022, arXiv 2205.01580).

    Random ones as small as CLIP's drown in the patches here, and where things are is learned last.
    """
    rows = WIDTH // 4
    speed = 100.0 ** (-torch.arange(rows) / (rows - 1))
    side = torch.arange(SIDE // PATCH, dtype=torch.float32)
    wave = torch.cat([f(side[:, None] * speed) for f in (torch.sin, torch.cos)], dim=1)
    down, across = torch.meshgrid(torch.arange(len(side)), torch.arange(len(side)), indexing="ij")
    grid = torch.cat([wave[down.flatten()], wave[across.flatten()]], dim=1)
    with torch.no_grad():
        model.vision_model.embeddings.position_embedding.weight[1:] = 0.5 * grid


def silence_unused_words(embedding: torch.nn.Embedding, used: Tensor) -> None:
    """Zero the vectors of words that no caption has: they get no gradient, and say nothing."""
    unused = torch.ones(embedding.num_embeddings, dtype=torch.bool)
    unused[used.unique()] = False
    with torch.no_grad():
        embedding.weight[unused] = 0


def contrast(image: Tensor, text: Tensor, logit_scale: Tensor) -> Tensor:
    """InfoNCE in both directions (Radford et al. 2021), with hard negatives among the texts.

    Args:
        image: features [B, D]; text: [B, 1 + H, D], the matching one first. All of them are
            negatives for other images (NegCLIP: Yuksekgonul et al. 2023, section 4).
    """
    scale = logit_scale.exp().clamp(max=100)
    image, text = F.normalize(image), F.normalize(text, dim=-1)
    logits = scale * image @ text.transpose(0, 1).flatten(0, 1).T  # matching texts come first
    right = torch.arange(len(logits))
    forward = F.cross_entropy(logits, right)
    return (forward + F.cross_entropy(logits[:, : len(logits)].T, right)) / 2


def tokens_of(texts: Sequence[str]) -> Tensor:
    """OpenAI's token ids, int64 [N, WORDS]."""
    return ftfy_tokens.tokenizer(WORDS)(texts)


def new_clip() -> CLIPModel:
    """The untrained model: quick GELU and OpenAI's vocabulary, as published."""
    last = ftfy_tokens.VOCABULARY - 1
    config = clip_config(
        activation="quick_gelu", vocabulary=ftfy_tokens.VOCABULARY, start=last - 1, end=last
    )
    return CLIPModel(config)


def train_clip(bank: Bank) -> CLIPModel:
    """The contrastive model, on captions that may end in a remark on the picture's quality."""
    torch.manual_seed(10)
    model = new_clip()
    place_patches(model)
    words = sorted(set(bank.captions))
    words += [f"{words[0]}, {word}" for pair in REMARKS for word in pair]
    silence_unused_words(model.text_model.embeddings.token_embedding, tokens_of(words))

    def loss(rng: np.random.Generator, noise: torch.Generator) -> Tensor:
        rows = rng.integers(len(bank.images), size=BATCH)
        texts = [describe(rng, bank.captions[row], bank.quality[row]) for row in rows]
        tokens = tokens_of([text for some in texts for text in some])
        tokens = tokens[:, : int(tokens.argmax(dim=1).max()) + 1]  # the rest is padding for all
        image = model.get_image_features(pixel_values=pixels(bank.images[rows])).pooler_output
        text = model.get_text_features(input_ids=tokens).pooler_output
        return contrast(image, text.unflatten(0, (BATCH, -1)), model.logit_scale)

    fit("clip", model, loss, steps=STEPS, learning_rate=1e-3, warmup=300, average=0.99)
    return model
