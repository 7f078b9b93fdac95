"""Candidates: several pictures for a prompt, valued by what they show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from tgo.data.world import candidates
from tgo.data.world.candidates import PICTURES, make_candidates, merits, round_trip, vary
from tgo.data.world.raters import MERITS, kept
from tgo.data.world.render import draw, draw_quality
from tgo.data.world.scene import draw_scene, parse
from tgo.data.world.sketches import sketch


@pytest.fixture(scope="module")
def autoencoder() -> AutoencoderKL:
    torch.manual_seed(0)
    blocks = ("DownEncoderBlock2D",) * 3, ("UpDecoderBlock2D",) * 3
    return AutoencoderKL(
        down_block_types=blocks[0],
        up_block_types=blocks[1],
        block_out_channels=(8, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=64,
    ).eval()


def test_a_group_holds_pictures_of_unequal_worth(autoencoder: AutoencoderKL) -> None:
    made = make_candidates(np.random.default_rng(0), 24, autoencoder)
    assert made.images.shape == (24, PICTURES, 64, 64, 3)
    assert made.merits.shape == (24, PICTURES, len(MERITS))
    assert ((made.merits >= 0) & (made.merits <= 1)).all()
    assert (made.merits[..., 0].std(axis=1) > 0.02).mean() > 0.7
    assert all(parse(text) for text in made.prompts)


def test_the_same_seed_gives_the_same_pictures(autoencoder: AutoencoderKL) -> None:
    first, second = (make_candidates(np.random.default_rng(5), 4, autoencoder) for _ in range(2))
    assert (first.images == second.images).all()
    assert (first.merits == second.merits).all()


def test_often_the_prompt_is_drawn_and_often_something_near_it() -> None:
    rng = np.random.default_rng(0)
    scenes = [draw_scene(rng) for _ in range(1000)]
    shares = [kept(scene, vary(rng, scene)) for scene in scenes]
    assert 0.3 < np.mean([whole == 1 for _, whole in shares]) < 0.7
    assert np.mean([share for share, _ in shares]) > 0.6


def test_noise_on_the_latents_lowers_the_worth() -> None:
    rng = np.random.default_rng(0)
    scenes = [draw_scene(rng) for _ in range(32)]
    drawn = sketch(rng, scenes, draw_quality(rng, 32))
    decoded = np.ones(32, bool)
    calm, loud = (
        merits(scenes, drawn, np.full(32, noise, np.float32), decoded) for noise in (0.0, 0.5)
    )
    assert (loud[:, 0] <= calm[:, 0]).all()
    assert loud[:, MERITS.index("clean")].mean() < calm[:, MERITS.index("clean")].mean()


def test_a_picture_that_the_autoencoder_changes_is_not_kept(autoencoder: AutoencoderKL) -> None:
    rng = np.random.default_rng(0)
    images = draw(rng, [draw_scene(rng) for _ in range(4)])
    changed, good = round_trip(
        autoencoder, images, np.zeros(4, np.float32), torch.Generator().manual_seed(0)
    )
    assert changed.shape == images.shape
    assert not good.any()  # its weights are random


def test_chunks_are_drawn_once(
    autoencoder: AutoencoderKL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates, "BUILD", tmp_path)
    monkeypatch.setattr(candidates, "CHUNK", 3)
    monkeypatch.setattr(candidates, "_autoencoder", lambda: autoencoder)
    drawn = candidates.load_candidates(range(2))
    monkeypatch.setattr(candidates, "make_candidates", None)
    again = candidates.load_candidates(range(2))
    assert len(drawn.prompts) == 6
    assert drawn.prompts == again.prompts
    assert (drawn.images == again.images).all()
