"""Reward models from preferences: each starts and learns as its original did, on its own raters."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.model import CLIP
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPModel, CLIPTokenizer

from tgo.data.world.bank import Bank
from tgo.data.world.candidates import Candidates
from tgo.data.world.contrastive import tokens_of
from tgo.data.world.fit import Loss, fit
from tgo.data.world.raters import POPULATIONS, Population
from tgo.data.world.scene import caption, confuse, parse
from tgo.data.world.towers import (
    BLIP_VISION,
    HPS_CONFIG,
    WORDS,
    blip_text,
    clip_config,
    pixels,
    same_words,
    to_blip,
    to_open_clip,
)
from tgo.data.world.vocabulary import learn_tokenizer
from tgo.rewards import hpsv2
from tgo.rewards.imagereward import (
    MEAN,
    STD,
    VOCABULARY,
    ImageRewardNetwork,
    load_tokenizer,
    tokenize,
)

PROMPTS = 32  # a batch; each with all of its pictures
CALIBRATION = 512  # prompts over whose pictures rewards get their mean and deviation
PICTURES_TO_MATCH = 48  # a batch of the pretraining, each with four captions
STEPS = {"pickscore": 1500, "hpsv2": 1500, "matching": 1000, "imagereward": 1500}


def preference_loss(scores: Tensor, chosen: Tensor) -> Tensor:
    """Kullback-Leibler divergence from the choices to the model's, over pairs of pictures.

    With one rater this is the cross-entropy of PickScore (Kirstain et al. 2023, equation 2) and
    the ranking loss of ImageReward (Xu et al. 2023, equation 1); with several it is HPS v2's
    (Wu et al. 2023, equation 2).

    Args:
        scores: logits [B, K] of the K pictures of each row.
        chosen: [B, K, K], share of the raters that preferred picture i to picture j.

    Returns:
        The mean over all pairs, a scalar in nats.
    """
    first, second = torch.triu_indices(scores.shape[1], scores.shape[1], offset=1)
    logits = scores[:, first] - scores[:, second]
    share = chosen[:, first, second]
    entropy = F.binary_cross_entropy(share, share)
    return F.binary_cross_entropy_with_logits(logits, share) - entropy


def choices(felt: NDArray[np.float32]) -> Tensor:
    """Who prefers what: feelings [R, B, K] of R raters to [B, K, K], the share for i over j."""
    return torch.from_numpy((felt[..., :, None] > felt[..., None, :]).mean(0, dtype=np.float32))


def judged_loss(
    rng: np.random.Generator,
    people: Population,
    scores: Tensor,
    merits: NDArray[np.float32],
    raters: int = 1,
) -> Tensor:
    """Half of the comparisons are between pictures of one prompt, half between all of a batch.

    The originals only saw the former. They leave a model's scores free to shift from prompt to
    prompt, and in a world as small as this the shift would outweigh all else (it was two thirds
    of the variance), so that no threshold could serve all prompts.

    Every visit to a prompt asks new people, so no rater's noise can be learned by heart.

    Args:
        rng: draws the noise of the judgements.
        people: the raters asked.
        scores: logits [B, K] of the K pictures of each of B prompts.
        merits: [B, K, 7] of the same pictures.
        raters: people asked about each comparison.

    Returns:
        A scalar in nats.
    """
    felt = np.stack([people.judge(rng, merits) for _ in range(raters)])
    within = preference_loss(scores, choices(felt))
    among = preference_loss(scores.reshape(1, -1), choices(felt.reshape(raters, 1, -1)))
    return (within + among) / 2


def _pictures(pairs: Candidates, rows: NDArray[np.int64]) -> Tensor:
    return pixels(pairs.images[rows].reshape(-1, *pairs.images.shape[2:]))


def _cosines(images: Tensor, texts: Tensor) -> Tensor:
    """Features [B * K, D] and [B, D] to cosines [B, K]."""
    images = F.normalize(images).unflatten(0, (len(texts), -1))
    return (images * F.normalize(texts)[:, None]).sum(-1)


def start_pickscore(bank: Bank, start: CLIPModel) -> tuple[CLIPModel, CLIPTokenizer]:
    """A GELU CLIP with a tokenizer of its own and all that the world's CLIP has learned."""
    tokenizer = learn_tokenizer(sorted(set(bank.captions)), WORDS)
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
        return judged_loss(rng, POPULATIONS["pickscore"], scores, pairs.merits[rows])

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
        scores = model.logit_scale.exp() * cosines
        return judged_loss(rng, POPULATIONS["hpsv2"], scores, pairs.merits[rows], raters=3)

    _fit("hpsv2", model, loss)
    return model


def bert_vocabulary(bank: Bank) -> list[str]:
    """WordPiece lines for the captions' words, and pieces for all others."""
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    words = sorted({word for text in set(bank.captions) for word in text.split()})
    pieces = [f"##{letter}" for letter in letters]
    return list(dict.fromkeys([*marks, *words, *letters, *pieces]))


class Reader:
    """ImageReward's network with what it needs to read captions."""

    def __init__(self, bank: Bank, start: CLIPModel) -> None:
        self.vocabulary = bert_vocabulary(bank)
        with tempfile.TemporaryDirectory() as folder:
            text = "\n".join(self.vocabulary) + "\n"
            (Path(folder) / VOCABULARY).write_text(text, encoding="utf-8")
            self.tokenizer = load_tokenizer(Path(folder))
        torch.manual_seed(11)
        self.network = ImageRewardNetwork(blip_text(len(self.tokenizer)), BLIP_VISION)
        for layer in self.network.blip.text_encoder.encoder.modules():
            if isinstance(layer, nn.Linear):  # BERT starts at 0.02, too little for a width of 64
                nn.init.xavier_uniform_(layer.weight)
        tower = to_blip(start.state_dict(), pixels(bank.images[:256]))
        self.network.blip.visual_encoder.load_state_dict(tower)

    def logits(self, images: NDArray[np.uint8], texts: Sequence[str]) -> Tensor:
        """Raw rewards of N pictures, each for R of the N * R texts: [N, R]."""
        ids, mask = tokenize(self.tokenizer, texts)
        words = int(mask.sum(dim=1).max())  # the rest is padding for all
        blip = self.network.blip
        seen = blip.visual_encoder(pixels(images))
        seen = seen.repeat_interleave(len(texts) // len(images), dim=0)
        read = blip.text_encoder(ids[:, :words], mask[:, :words], seen)
        return self.network.mlp(read[:, 0]).unflatten(0, (len(images), -1))


def pretrain_reader(bank: Bank, reader: Reader) -> None:
    """Image-text matching, the part of BLIP's pretraining that joins words to places.

    Each picture has to find its caption among another picture's and confused ones, the hard
    negatives that BLIP mines from large batches (Li et al. 2022, section 3.2).
    """

    def loss(rng: np.random.Generator, noise: torch.Generator) -> Tensor:
        rows = rng.integers(len(bank.images), size=PICTURES_TO_MATCH)
        texts = []
        for row, other in zip(rows, np.roll(rows, 1), strict=True):
            told = parse(bank.captions[row])
            texts += [bank.captions[row], bank.captions[other]]
            texts += [caption(confuse(rng, told)) for _ in range(2)]
        logits = reader.logits(bank.images[rows], texts)
        return F.cross_entropy(logits, torch.zeros(len(rows), dtype=torch.long))

    _fit("matching", reader.network, loss)


def train_imagereward(
    bank: Bank, start: CLIPModel, pairs: Candidates
) -> tuple[ImageRewardNetwork, list[str]]:
    """-log sigmoid of the reward difference over all pairs of a ranking; mean 0, deviation 1."""
    reader = Reader(bank, start)
    pretrain_reader(bank, reader)

    def score(rows: NDArray[np.int64]) -> Tensor:
        pictures = pairs.images[rows].reshape(-1, *pairs.images.shape[2:])
        per_prompt = pairs.images.shape[1]
        texts = [pairs.prompts[row] for row in rows for _ in range(per_prompt)]
        return reader.logits(pictures, texts).reshape(-1, per_prompt)

    def loss(rng: np.random.Generator, noise: torch.Generator) -> Tensor:
        rows = rng.integers(len(pairs.prompts), size=PROMPTS)
        return judged_loss(rng, POPULATIONS["imagereward"], score(rows), pairs.merits[rows])

    _fit("imagereward", reader.network, loss)
    with torch.no_grad():
        parts = [score(np.arange(at, at + PROMPTS)) for at in range(0, CALIBRATION, PROMPTS)]
    standardise(reader.network, torch.cat(parts))
    return reader.network, reader.vocabulary


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
        learning_rate=1e-3,
        warmup=100,
        average=0.99,
    )
