"""The bank: the captioned pictures that everything in the world is trained on.

Like data from the web, a quarter of its captions are wrong in one or two words and most of its
pictures have faults; what is really in each picture is kept beside it. A clean bank, flawless and
rightly told, is the curated start of the diffusion model's pretraining.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from tgo.data.world.fit import BUILD, SEED, first_rank_first
from tgo.data.world.render import QUALITIES, draw, draw_quality
from tgo.data.world.scene import caption, confuse, draw_scene

CHUNK = 1024
CHUNKS = 48
WRONG = 0.25  # share of captions with one or two wrong words


@dataclass(frozen=True)
class Bank:
    """`images` uint8 [N, 64, 64, 3], `quality` float32 [N, 4], `truth` and `captions` N strings."""

    images: NDArray[np.uint8]
    quality: NDArray[np.float32]
    truth: list[str]
    captions: list[str]


def _chunk(index: int, clean: bool) -> Path:
    path = BUILD / ("clean_bank" if clean else "bank") / f"{index:03d}.npz"
    if path.exists():
        return path
    rng = np.random.default_rng([SEED, 2 if clean else 1, index])
    scenes = [draw_scene(rng) for _ in range(CHUNK)]
    quality = np.ones((CHUNK, len(QUALITIES)), np.float32) if clean else draw_quality(rng, CHUNK)
    images = draw(rng, scenes, quality)
    wrong = rng.random(CHUNK) < (0 if clean else WRONG)
    truth = [caption(scene) for scene in scenes]
    told = [
        caption(confuse(rng, scene)) if bad else true
        for scene, true, bad in zip(scenes, truth, wrong, strict=True)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp.npz")
    np.savez(
        temporary,
        images=images,
        quality=quality,
        text=np.frombuffer(json.dumps([truth, told]).encode(), np.uint8),
    )
    os.replace(temporary, path)
    return path


def load_bank(chunks: int = CHUNKS, *, clean: bool = False) -> Bank:
    """The first `chunks` x 1,024 pictures, drawn now where they are not there yet."""
    with first_rank_first(), ProcessPoolExecutor(2) as pool:
        drawn = pool.map(partial(_chunk, clean=clean), range(chunks))
        paths = list(tqdm(drawn, total=chunks, desc="bank", unit="chunk"))
    parts = [np.load(path) for path in paths]
    texts = [json.loads(part["text"].tobytes()) for part in parts]
    return Bank(
        images=np.concatenate([part["images"] for part in parts]),
        quality=np.concatenate([part["quality"] for part in parts]),
        truth=[text for truth, _ in texts for text in truth],
        captions=[text for _, told in texts for text in told],
    )
