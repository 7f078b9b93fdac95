"""The world's text encoder: a CLIP text model that learns to read before anything is drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from tgo.data.world.fit import fit, share
from tgo.data.world.scene import (
    BACKGROUNDS,
    COLOURS,
    PLACES,
    RELATIONS,
    SHAPES,
    SIZES,
    Scene,
    parse,
)

WORDS = 24  # tokens a prompt is padded to; the longest caption has 17
WIDTH = 96
BATCH = 128
STEPS = 1200

_OBJECT = (SHAPES, COLOURS, SIZES, PLACES)
FACTS = (*_OBJECT, *_OBJECT, RELATIONS, BACKGROUNDS)  # what a caption may say, in this order


def tokenize(tokenizer: CLIPTokenizer, texts: Sequence[str]) -> Tensor:
    """int64 [N, WORDS], padded as Stable Diffusion's pipeline pads."""
    return tokenizer(
        list(texts), padding="max_length", max_length=WORDS, truncation=True, return_tensors="pt"
    ).input_ids


def facts(scene: Scene) -> list[int]:
    """Which of its words each of FACTS has in a scene, counted from 1; 0 where it is not said."""
    said: list[str | None] = []
    for thing in (*scene.things, None)[:2]:
        said += [thing.shape, thing.colour, thing.size, thing.place] if thing else [None] * 4
    said += [scene.relation, scene.background]
    return [words.index(word) + 1 if word else 0 for words, word in zip(FACTS, said, strict=True)]


def train_text_encoder(captions: Sequence[str], tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A text model whose last state tells, through linear layers, all that a caption says.

    Stable Diffusion, too, takes a text encoder that was trained before and leaves it frozen. Here
    that costs a minute, and the U-Net then learns what goes where from far fewer pictures than
    when both learned together.
    """
    torch.manual_seed(2)
    model = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=WORDS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            projection_dim=WIDTH,
        )
    )
    sizes = [1 + len(words) for words in FACTS]
    readers = nn.Linear(WIDTH, sum(sizes))
    tokens = tokenize(tokenizer, captions)
    answers = torch.tensor([facts(parse(text)) for text in captions])

    def loss(rng: np.random.Generator, noise: torch.Generator) -> Tensor:
        rows = torch.from_numpy(rng.integers(len(tokens), size=share(BATCH)))
        last = model(tokens[rows]).last_hidden_state[:, -1]
        guesses = readers(last).split(sizes, dim=1)
        return torch.stack(
            [F.cross_entropy(guess, answers[rows, at]) for at, guess in enumerate(guesses)]
        ).sum()

    fit("reading", nn.ModuleList([model, readers]), loss, steps=STEPS, learning_rate=2e-3)
    return model.requires_grad_(False)
