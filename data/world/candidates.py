"""Several pictures for one prompt, as preference data sets have them, and what each is worth.

Some pictures show the caption's scene, some a confused one; half are deformed (see `sketches`),
and about half went through the autoencoder with noise on their latents, so that they look like
what a latent diffusion model makes. Raters judge by what was drawn, not by the pixels.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch.nn import functional as F
from tqdm import tqdm

from tgo.data.world.autoencoder import to_pixels, train_autoencoder
from tgo.data.world.bank import load_bank
from tgo.data.world.fit import BUILD, SEED
from tgo.data.world.raters import MERITS, kept
from tgo.data.world.render import draw_quality
from tgo.data.world.scene import RELATIONS, UNSEEN, Scene, caption, confuse, draw_scene
from tgo.data.world.sketches import Sketch, drawn_scene, paint, sketch, wear

PICTURES = 4  # for each prompt
CHUNK = 512  # prompts in a file
MOST_NOISE = 0.6  # on the latents, in units of their standard deviation
SMEAR = 1.25  # what noise of 1 does, see `wear`; read off decoded pictures

Array = NDArray[np.float32]
Images = NDArray[np.uint8]


@dataclass(frozen=True)
class Candidates:
    """G prompts with K pictures each.

    Attributes:
        images: uint8 [G, K, 64, 64, 3]; prompts: G captions; merits: float32 [G, K, 7], see MERITS.
    """

    images: Images
    prompts: list[str]
    merits: Array


def vary(rng: np.random.Generator, scene: Scene) -> Scene:
    """What a picture for this scene's caption may show: often it, sometimes something near it."""
    kind = rng.random()
    if kind < 0.4:
        return scene
    if kind < 0.65:
        return confuse(rng, scene)
    if kind < 0.75:
        return confuse(rng, confuse(rng, scene))
    if scene.relation is None:
        return confuse(rng, scene) if kind < 0.9 else scene  # a thing too many comes in `sketch`
    if kind < 0.83:  # one thing is missing
        return Scene((scene.things[int(rng.integers(2))],), scene.background)
    if kind < 0.9:
        return replace(scene, relation=RELATIONS[int(rng.integers(len(RELATIONS)))])
    return _exchange(rng, scene)


def _exchange(rng: np.random.Generator, scene: Scene) -> Scene:
    """The two things with their colours or their places exchanged."""
    first, second = scene.things
    swapped = (replace(first, colour=second.colour), replace(second, colour=first.colour))
    allowed = all((thing.shape, thing.colour) not in UNSEEN for thing in swapped)
    if allowed and rng.random() < 0.5:
        return replace(scene, things=swapped)
    return replace(scene, things=(second, first))


def merits(
    promised: Sequence[Scene], drawn: Sketch, noise: Array, decoded: NDArray[np.bool_]
) -> Array:
    """What each picture is worth to a rater.

    Args:
        promised: what the B prompts promise.
        drawn: what the B pictures show.
        noise: [B] on the latents.
        decoded: [B], which pictures went through the autoencoder: it softens edges and swallows
            specks.

    Returns:
        float32 [B, len(MERITS)].
    """
    quality = drawn.layout.quality.copy()
    quality[:, 1] *= np.where(decoded, 0.75, 1.0)
    quality[:, 2] *= np.exp(-((noise / 0.5) ** 2))
    quality[:, 3] += np.where(decoded, 0.8 * (1 - quality[:, 3]), 0.0)
    rows = []
    for row, (scene, worn) in enumerate(zip(promised, wear(drawn, SMEAR * noise), strict=True)):
        found = kept(scene, drawn_scene(drawn.layout, row), worn)
        clean = min(w.shape * w.colour * (1 - 4 * w.presence * (1 - w.presence)) for w in worn)
        rows.append((*found, *quality[row], clean))
    return np.array(rows, np.float32).reshape(-1, len(MERITS))


@torch.no_grad()
def round_trip(
    autoencoder: AutoencoderKL, images: Images, noise: Array, generator: torch.Generator
) -> tuple[Images, NDArray[np.bool_]]:
    """Pictures decoded from their noisy latents, and which of them kept what they show.

    Half of the noise's variance is white, half smooth, as a denoiser's errors are. A picture whose
    clean reconstruction differs somewhere by 30 grey levels over 4 x 4 pixels is not kept: there
    the autoencoder itself draws something else.
    """
    pixels = to_pixels(images)
    latents = autoencoder.encode(pixels).latent_dist.mean
    clean = autoencoder.decode(latents).sample
    away = F.avg_pool2d(clean - pixels, 4).abs().amax(dim=(1, 2, 3)) * 127.5
    white = torch.randn(latents.shape, generator=generator)
    coarse = torch.randn(*latents.shape[:2], 6, 6, generator=generator)
    smooth = F.interpolate(coarse, latents.shape[2:], mode="bicubic")
    strength = torch.from_numpy(noise)[:, None, None, None] / autoencoder.config.scaling_factor
    noisy = autoencoder.decode(latents + strength * (white + smooth) / 2**0.5).sample
    grey = ((noisy.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return grey.permute(0, 2, 3, 1).numpy(), (away < 30).numpy()


@cache
def _autoencoder() -> AutoencoderKL:
    return train_autoencoder(load_bank())


def make_candidates(
    rng: np.random.Generator, prompts: int, autoencoder: AutoencoderKL
) -> Candidates:
    """`prompts` random captions with PICTURES pictures each."""
    wanted = [draw_scene(rng) for _ in range(prompts)]
    promised = [scene for scene in wanted for _ in range(PICTURES)]
    drawn = sketch(rng, [vary(rng, s) for s in promised], draw_quality(rng, len(promised)))
    images = paint(rng, drawn)
    noise = (MOST_NOISE * rng.random(len(images)) ** 2).astype(np.float32)
    rows = np.flatnonzero(rng.random(len(images)) < 0.5)
    decoded = np.zeros(len(images), bool)
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    for some in np.array_split(rows, max(1, len(rows) // 128)):
        changed, good = round_trip(autoencoder, images[some], noise[some], generator)
        images[some[good]] = changed[good]
        decoded[some[good]] = True
    worth = merits(promised, drawn, noise * decoded, decoded)
    shape = (prompts, PICTURES)
    return Candidates(
        images.reshape(*shape, *images.shape[1:]),
        [caption(scene) for scene in wanted],
        worth.reshape(*shape, -1),
    )


def _chunk(index: int) -> Path:
    path = BUILD / "candidates" / f"{index:03d}.npz"
    if not path.exists():
        made = make_candidates(np.random.default_rng([SEED, 2, index]), CHUNK, _autoencoder())
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp.npz")
        text = np.frombuffer(json.dumps(made.prompts).encode(), np.uint8)
        np.savez(temporary, images=made.images, merits=made.merits, text=text)
        os.replace(temporary, path)
    return path


def load_candidates(chunks: range) -> Candidates:
    """The chunks of CHUNK prompts with these numbers, drawn now where they are not there yet."""
    parts = [np.load(_chunk(index)) for index in tqdm(chunks, desc="candidates", unit="chunk")]
    return Candidates(
        images=np.concatenate([part["images"] for part in parts]),
        prompts=[text for part in parts for text in json.loads(part["text"].tobytes())],
        merits=np.concatenate([part["merits"] for part in parts]),
    )
