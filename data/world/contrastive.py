"""The world's CLIP: contrastive on the bank's captions, as Radford et al. 2021 on the web's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPModel

from tgo.data.world.bank import Bank
from tgo.data.world.fit import fit
from tgo.data.world.towers import WORDS, clip_config, pixels
from tgo.rewards import ftfy_tokens

BATCH = 128
STEPS = 3000

REMARKS = (  # what web captions say about each of render.QUALITIES when it is low or high
    ("washed out", "vivid"),
    ("blurry", "sharp"),
    ("stained", "even"),
    ("cluttered", "tidy"),
)


def remark(rng: np.random.Generator, caption: str, quality: NDArray[np.float32]) -> str:
    """The caption, half of the time with a word on one quality if that is low or high."""
    if rng.random() < 0.5:
        return caption
    which = int(rng.integers(len(REMARKS)))
    low, high = REMARKS[which]
    if quality[which] < 0.4:
        return f"{caption}, {low}"
    return f"{caption}, {high}" if quality[which] > 0.85 else caption


def silence_unused_words(embedding: torch.nn.Embedding, used: Tensor) -> None:
    """Zero the vectors of words that no caption has: they get no gradient, and say nothing."""
    unused = torch.ones(embedding.num_embeddings, dtype=torch.bool)
    unused[used.unique()] = False
    with torch.no_grad():
        embedding.weight[unused] = 0


def contrast(image: Tensor, text: Tensor, logit_scale: Tensor) -> Tensor:
    """InfoNCE in both directions over a batch of matching features [B, D]."""
    logits = logit_scale.exp().clamp(max=100) * F.normalize(image) @ F.normalize(text).T
    right = torch.arange(len(logits))
    return (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2


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
    """The contrastive model; captions may end in a remark on the picture's quality."""
    torch.manual_seed(10)
    model = new_clip()
    words = sorted(set(bank.captions))
    words += [f"{words[0]}, {word}" for pair in REMARKS for word in pair]
    silence_unused_words(model.text_model.embeddings.token_embedding, tokens_of(words))

    def loss(rng: np.random.Generator, noise: torch.Generator) -> Tensor:
        rows = rng.integers(len(bank.images), size=BATCH)
        texts = [remark(rng, bank.captions[row], bank.quality[row]) for row in rows]
        image = model.get_image_features(pixel_values=pixels(bank.images[rows])).pooler_output
        text = model.get_text_features(input_ids=tokens_of(texts)).pooler_output
        return contrast(image, text, model.logit_scale)

    fit("clip", model, loss, steps=STEPS, learning_rate=1e-3, warmup=300, average=0.99)
    return model
