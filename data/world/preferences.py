"""Reward models from preferences: each starts and learns as its original did, on its own raters."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.model import CLIP
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPModel, CLIPTokenizer

from data.world.bank import Bank
from data.world.candidates import Candidates
from data.world.contrastive import tokens_of
from data.world.fit import Loss, fit
from data.world.raters import POPULATIONS, Population
from data.world.towers import (
    BLIP_VISION,
    HPS_CONFIG,
    WORDS,
    blip_text,
    build_clip_tokenizer,
    clip_config,
    pixels,
    same_words,
    to_blip,
    to_open_clip,
)
from rewards import hpsv2
from rewards.imagereward import (
    MEAN,
    STD,
    VOCABULARY,
    ImageRewardNetwork,
    load_tokenizer,
    tokenize,
)

PROMPTS = 32  # a batch; each with all of its pictures
CALIBRATION = 512  # prompts over whose pictures rewards get their mean and deviation
STEPS = {"pickscore": 1500, "hpsv2": 1500, "imagereward": 2000}


def preference_loss(scores: Tensor, chosen: Tensor) -> Tensor:
    """Kullback-Leibler divergence from the choices to the model's, over pairs of pictures.

    With one rater this is the cross-entropy of PickScore (Kirstain et al. 2023, equation 2) and
    the ranking loss of ImageReward (Xu et al. 2023, equation 1); with several it is HPS v2's
    (Wu et al. 2023, equation 2).

    Args:
        scores: logits [B, K] of the K pictures of each prompt.
        chosen: [B, K, K], share of the raters that preferred picture i to picture j.
    """
    first, second = torch.triu_indices(scores.shape[1], scores.shape[1], offset=1)
    logits = scores[:, first] - scores[:, second]
    share = chosen[:, first, second]
    entropy = F.binary_cross_entropy(share, share)
    return F.binary_cross_entropy_with_logits(logits, share) - entropy


def choices(
    rng: np.random.Generator, people: Population, merits: NDArray[np.float32], raters: int = 1
) -> Tensor:
    """Who prefers what: merits [B, K, 7] to [B, K, K], the share of `raters` for i over j.

    Every visit to a prompt asks new people, so no rater's noise can be learned by heart.
    """
    felt = np.stack([people.judge(rng, merits) for _ in range(raters)])
    return torch.from_numpy((felt[..., :, None] > felt[..., None, :]).mean(0, dtype=np.float32))


def _pictures(pairs: Candidates, rows: NDArray[np.int64]) -> Tensor:
    return pixels(pairs.images[rows].reshape(-1, *pairs.images.shape[2:]))


def _cosines(images: Tensor, texts: Tensor) -> Tensor:
    """Features [B * K, D] and [B, D] to cosines [B, K]."""
    images = F.normalize(images).unflatten(0, (len(texts), -1))
    return (images * F.normalize(texts)[:, None]).sum(-1)


def start_pickscore(bank: Bank, start: CLIPModel) -> tuple[CLIPModel, CLIPTokenizer]:
    """A GELU CLIP with a tokenizer of its own and all that the world's CLIP has learned."""
    tokenizer = build_clip_tokenizer(sorted(set(bank.captions)))
    model = CLIPModel(
        clip_config(
            activation="gelu",
            vocabulary=len(tokenizer),
            start=tokenizer.bos_token_id,
            end=tokenizer.eos_token_id,
        )
    )
    state = dict(start.state_dict())
    key = "text_model.embeddings.token_embedding.weight"
    state[key] = same_words(state[key], tokenizer)
    model.load_state_dict(state)
    return model, tokenizer


def train_pickscore(
    bank: Bank, start: CLIPModel, pairs: Candidates
) -> tuple[CLIPModel, CLIPTokenizer]:
    """Softmax cross-entropy over two pictures, logits `exp(logit_scale) * cos`."""
    model, tokenizer = start_pickscore(bank, start)
    words = tokenizer(pairs.prompts, padding="max_length", max_length=WORDS, return_tensors="pt")

    def loss(rng: np.random.Generator, noise: torch.Generator) -> Tensor:
        rows = rng.integers(len(pairs.prompts), size=PROMPTS)
        image = model.get_image_features(pixel_values=_pictures(pairs, rows)).pooler_output
        text = model.get_text_features(input_ids=words.input_ids[rows]).pooler_output
        scores = model.logit_scale.exp() * _cosines(image, text)
        return preference_loss(scores, choices(rng, POPULATIONS["pickscore"], pairs.merits[rows]))

    _fit("pickscore", model, loss)
    return model, tokenizer


def train_hpsv2(start: CLIPModel, pairs: Candidates) -> CLIP:
    """KL to the choices of several raters, logits `exp(logit_scale) * cos`, in open_clip."""
    model = hpsv2.build(HPS_CONFIG)
    model.load_state_dict(to_open_clip(start.state_dict()), strict=True)
    words = tokens_of(pairs.prompts)

    def loss(rng: np.random.Generator, noise: torch.Generator) -> Tensor:
        rows = rng.integers(len(pairs.prompts), size=PROMPTS)
        cosines = _cosines(
            model.encode_image(_pictures(pairs, rows)), model.encode_text(words[rows])
        )
        chosen = choices(rng, POPULATIONS["hpsv2"], pairs.merits[rows], raters=3)
        return preference_loss(model.logit_scale.exp() * cosines, chosen)

    _fit("hpsv2", model, loss)
    return model


def bert_vocabulary(bank: Bank) -> list[str]:
    """WordPiece lines for the captions' words, and pieces for all others."""
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    words = sorted({word for text in set(bank.captions) for word in text.split()})
    pieces = [f"##{letter}" for letter in letters]
    return list(dict.fromkeys([*marks, *words, *letters, *pieces]))


def train_imagereward(
    bank: Bank, start: CLIPModel, pairs: Candidates
) -> tuple[ImageRewardNetwork, list[str]]:
    """-log sigmoid of the reward difference over all pairs of a ranking; mean 0, deviation 1."""
    vocabulary = bert_vocabulary(bank)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / VOCABULARY).write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
        tokenizer = load_tokenizer(Path(folder))
    torch.manual_seed(11)
    model = ImageRewardNetwork(blip_text(len(tokenizer)), BLIP_VISION)
    tower = to_blip(start.state_dict(), pixels(bank.images[:256]))
    model.blip.visual_encoder.load_state_dict(tower)
    ids, mask = tokenize(tokenizer, pairs.prompts)
    pictures = pairs.images.shape[1]

    def score(rows: NDArray[np.int64]) -> Tensor:
        words, real = (part[rows].repeat_interleave(pictures, dim=0) for part in (ids, mask))
        return model.logits(_pictures(pairs, rows), words, real).unflatten(0, (len(rows), -1))

    def loss(rng: np.random.Generator, noise: torch.Generator) -> Tensor:
        rows = rng.integers(len(pairs.prompts), size=PROMPTS)
        chosen = choices(rng, POPULATIONS["imagereward"], pairs.merits[rows])
        return preference_loss(score(rows), chosen)

    _fit("imagereward", model, loss)
    with torch.no_grad():
        parts = [score(np.arange(at, at + PROMPTS)) for at in range(0, CALIBRATION, PROMPTS)]
    standardise(model, torch.cat(parts))
    return model, vocabulary


def standardise(model: ImageRewardNetwork, rewards: Tensor) -> None:
    """Rescale the last layer so that `rewards` of it get the published mean and deviation."""
    last = model.mlp.layers[-1]
    assert isinstance(last, nn.Linear)
    scale = STD / rewards.std()
    with torch.no_grad():
        last.weight *= scale
        last.bias.copy_((last.bias - rewards.mean()) * scale + MEAN)


def _fit(name: str, model: nn.Module, loss: Loss) -> None:
    fit(
        name,
        model,
        loss,
        steps=STEPS[name],
        learning_rate=5e-4,
        warmup=100,
        average=0.99,
    )
