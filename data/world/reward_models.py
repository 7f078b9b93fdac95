"""Builds the five reward models of the world and measures them on pictures that none has seen."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPModel

from tgo.data.world.bank import Bank
from tgo.data.world.candidates import Candidates, load_candidates
from tgo.data.world.contrastive import train_clip
from tgo.data.world.fit import SEED, fit
from tgo.data.world.preferences import train_hpsv2, train_imagereward, train_pickscore
from tgo.data.world.raters import POPULATIONS
from tgo.data.world.render import draw, draw_quality
from tgo.data.world.scene import caption, confuse, draw_scene
from tgo.data.world.towers import HPS_CONFIG, pixels
from tgo.rewards import aesthetic, clip, hpsv2, imagereward, pickscore
from tgo.rewards.aesthetic import EMBEDDING
from tgo.rewards.heads import LinearHead
from tgo.rewards.panel import Panel

NAMES = ("pickscore", "hpsv2", "imagereward", "clip", "aesthetic")
TRAINING, HELD_OUT = range(16), range(900, 902)  # chunks of candidates
BATCH = 256
HEAD_STEPS = 3000  # of the aesthetic head
CAPTIONS = 2048  # pictures that CLIP is measured on

Array = NDArray[np.float32]


def build_reward_models(bank: Bank, folder: Path) -> None:
    """Train all five and write them, in the published formats, to folders under `folder`.

    Resumable: what is trained already is only written again.
    """
    start = train_clip(bank)
    clip.save(folder / "clip", start)
    pairs = load_candidates(TRAINING)
    aesthetic.save(folder / "aesthetic", train_aesthetic(start, pairs), clip="../clip")
    pickscore.save(folder / "pickscore", *train_pickscore(bank, start, pairs))
    hpsv2.save(folder / "hpsv2", train_hpsv2(start, pairs), HPS_CONFIG)
    imagereward.save(folder / "imagereward", *train_imagereward(bank, start, pairs))


def train_aesthetic(start: CLIPModel, pairs: Candidates) -> LinearHead:
    """Mean squared error to mean ratings 1 to 10, on the frozen CLIP's normalised embeddings."""
    images = pairs.images.reshape(-1, *pairs.images.shape[2:])
    merits = pairs.merits.reshape(len(images), -1)
    features = _embed(start, images)
    torch.manual_seed(12)
    head = LinearHead(EMBEDDING)
    people = POPULATIONS["aesthetic"]

    def loss(rng: np.random.Generator, noise: torch.Generator) -> Tensor:
        rows = rng.integers(len(features), size=BATCH)
        ratings = torch.from_numpy(people.rate(rng, merits[rows]))
        return F.mse_loss(head(features[rows]), ratings)

    fit("aesthetic", head, loss, steps=HEAD_STEPS, learning_rate=1e-3, average=0.99)
    return head


@torch.no_grad()
def _embed(model: CLIPModel, images: NDArray[np.uint8]) -> Tensor:
    parts = [
        model.get_image_features(pixel_values=pixels(images[at : at + BATCH])).pooler_output
        for at in range(0, len(images), BATCH)
    ]
    return F.normalize(torch.cat(parts))


def measure(folder: Path) -> dict[str, dict[str, float]]:
    """How well the panel does on held-out pictures.

    Args:
        folder: holds the folder of each reward model, under its name.

    Returns:
        `ranks_like_raters`: share of pairs of pictures of one prompt that a model ranks like its
        raters' noiseless utility; `clip`: share of pictures for which CLIP puts the true caption
        above another picture's, and above one with one or two wrong words; `correlation` of
        each two models' scores over all held-out pictures.
    """
    panel = Panel.load({name: str(folder / name) for name in NAMES})
    held_out = load_candidates(HELD_OUT)
    images = held_out.images.reshape(-1, *held_out.images.shape[2:])
    prompts = [text for text in held_out.prompts for _ in range(held_out.images.shape[1])]
    scores = _score(panel, images, prompts)
    shape = held_out.merits.shape[:2]
    ranks = {
        name: agreement(scores[name].reshape(shape), people.utility(held_out.merits))
        for name, people in POPULATIONS.items()
    }
    correlation = {
        f"{first} {second}": float(np.corrcoef(scores[first], scores[second])[0, 1])
        for first, second in combinations(NAMES, 2)
    }
    return {
        "ranks_like_raters": ranks,
        "clip": _caption_matching(panel),
        "correlation": correlation,
    }


def agreement(scores: Array, utility: Array) -> float:
    """Share of pairs in a row that two [G, K] arrays rank alike; equal utility does not count."""
    first, second = np.triu_indices(scores.shape[1], k=1)
    better = utility[:, first] - utility[:, second]
    higher = scores[:, first] - scores[:, second]
    differ = better != 0
    return float((np.sign(better) == np.sign(higher))[differ].mean())


def _score(panel: Panel, images: NDArray[np.uint8], prompts: list[str]) -> dict[str, Array]:
    parts = [
        panel.score(
            torch.from_numpy(images[at : at + BATCH]).permute(0, 3, 1, 2), prompts[at : at + BATCH]
        )
        for at in range(0, len(images), BATCH)
    ]
    return {name: torch.cat([part[name] for part in parts]).numpy() for name in panel.names}


def _caption_matching(panel: Panel) -> dict[str, float]:
    rng = np.random.default_rng([SEED, 3])
    scenes = [draw_scene(rng) for _ in range(CAPTIONS)]
    images = draw(rng, scenes, draw_quality(rng, CAPTIONS))
    true = [caption(scene) for scene in scenes]
    near = [caption(confuse(rng, scene)) for scene in scenes]
    own, others, confused = (
        _score(panel, images, texts)["clip"] for texts in (true, true[1:] + true[:1], near)
    )
    differ = np.array(true) != np.array(near)
    return {
        "above_another_caption": float((own > others).mean()),
        "above_a_confused_caption": float((own > confused)[differ].mean()),
    }
