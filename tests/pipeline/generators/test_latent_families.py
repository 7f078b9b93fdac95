"""Laws that every latent family keeps, through real classes at a tiny size."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.families import GUIDANCE, PROMPTS, SEEDS, Loaded, case, load, sample
from tests.family_models import KINDS
from tests.family_parts import resolution
from tgo.pipeline.generators.base import Corruption, select_rows
from tgo.pipeline.generators.sizes import Size
from tgo.pipeline.scoring import sampling
from tgo.pipeline.sources.prompts import Prompt


def stock_images(kind: str, folder: Path, size: Size | None = None) -> np.ndarray:
    """The same images from diffusers' own pipeline, uint8 [B, H, W, 3]."""
    from diffusers import DiffusionPipeline

    absent = {"text_encoder_3": None, "tokenizer_3": None} if kind == "sd3-without-t5" else {}
    pipeline = DiffusionPipeline.from_pretrained(folder, **absent)
    pipeline.set_progress_bar_config(disable=True)
    special: dict[str, dict[str, Any]] = {
        "wan": {"num_frames": 1},
        "sana": {"use_resolution_binning": False},
        "qwenimage": {"true_cfg_scale": GUIDANCE, "negative_prompt": ["", ""]},
    }
    made = pipeline(
        prompt=list(PROMPTS),
        num_inference_steps=3,
        # its guidance scale 0 is what others call 1
        guidance_scale=GUIDANCE - 1 if kind == "zimage" else GUIDANCE,
        height=size.height if size else resolution(kind),
        width=size.width if size else resolution(kind),
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        output_type="np",
        **special.get(kind, {}),
    )
    images = made.frames[:, 0] if kind == "wan" else made.images
    return (images * 255).round().astype(np.uint8)


@pytest.mark.parametrize("kind", KINDS)
def test_the_stock_pipeline_gives_the_same_images(
    kind: str, folders: Callable[[str], Path], loaded: Callable[[str], Loaded]
) -> None:
    family = loaded(kind)
    images = family.decode(sample(family, PROMPTS, SEEDS))
    assert images.float().std() > 1
    np.testing.assert_array_equal(
        images.permute(0, 2, 3, 1).numpy(), stock_images(kind, folders(kind))
    )


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_other_shapes_are_those_of_the_stock_pipeline(
    kind: str, folders: Callable[[str], Path]
) -> None:
    side = resolution(kind)
    sizes = [Size(side, side), Size(2 * side, side), Size(side, 2 * side)]
    family = load(kind, folders(kind), resolution=sizes)
    assert list(family.latent_shapes) == sizes
    for part in (family.network, family._vae):  # as the stock pipeline's, or torch rounds otherwise
        part.requires_grad_(True)
    for size in sizes[1:]:
        latents = sample(family, PROMPTS, SEEDS, size)
        images = family.decode(latents)
        assert images.shape == (2, 3, size.height, size.width)
        assert images.float().std() > 1
        np.testing.assert_array_equal(
            images.permute(0, 2, 3, 1).numpy(), stock_images(kind, folders(kind), size)
        )
        assert family.encode(images).shape == latents.shape == (2, *family.latent_shapes[size])
        drawn = family.corrupt(latents, torch.Generator().manual_seed(5))
        given = family.encode_prompts(PROMPTS)
        found = family.log_likelihood(family.network, latents, given, drawn, temperature=1.0)
        assert found.values.isfinite().all()
        alone = [
            family.log_likelihood(
                family.network,
                latents[row : row + 1],
                select_rows(given, slice(row, row + 1)),
                Corruption(*(part[row : row + 1] for part in drawn)),
                temperature=1.0,
            ).values
            for row in range(2)
        ]
        torch.testing.assert_close(torch.cat(alone), found.values, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_depends_on_its_own_seed_alone(kind: str, loaded: Callable[[str], Loaded]) -> None:
    family = loaded(kind)
    noise = family.initial_noise(SEEDS)
    assert noise.shape == (2, *family.latent_shape)
    assert torch.equal(family.initial_noise(SEEDS[1:])[0], noise[1])
    together = sample(family, PROMPTS, SEEDS)
    assert torch.equal(sample(family, PROMPTS, SEEDS), together)
    alone = sample(family, PROMPTS[1:], SEEDS[1:])
    torch.testing.assert_close(alone[0], together[1], rtol=1e-3, atol=1e-3)
    other = sample(family, PROMPTS[1:], [8])
    assert not torch.allclose(other[0], together[1], atol=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_stored_codes_decode_to_the_stored_image(
    kind: str, loaded: Callable[[str], Loaded]
) -> None:
    family: Any = loaded(kind)
    prompts = [Prompt(f"p{n}", text, "all") for n, text in enumerate(PROMPTS)]
    embedded = sampling.embed(family, PROMPTS, 2)
    rows = sampling.rows_of(prompts, seed=0, images_per_prompt=1)
    (made,) = sampling.sample(family, rows, embedded, 2)
    assert made.usable.all()
    assert made.latents.dtype == torch.float16
    images = sampling.decode(family, made)
    assert images.shape == (2, 3, resolution(kind), resolution(kind))
    assert torch.equal(family.decode(made.latents), images)
    found = family.encode(images)
    assert found.dtype == family.latent_dtype
    assert found.shape == made.latents.shape
    assert torch.equal(family.encode(images), found)


@pytest.mark.parametrize("kind", KINDS)
def test_codes_and_latents_undo_each_other(kind: str, loaded: Callable[[str], Loaded]) -> None:
    family = loaded(kind)
    latents = family.initial_noise([1])
    back = family._scaled(family._unscaled(latents))
    torch.testing.assert_close(back, latents)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_of_log_likelihood_matches_a_numeric_one(
    kind: str, folders: Callable[[str], Path], loaded: Callable[[str], Loaded]
) -> None:
    latents, conditions, drawn = case(loaded(kind))
    network = copy.deepcopy(loaded(kind).network).requires_grad_(True)

    def value() -> torch.Tensor:
        return (
            loaded(kind)
            .log_likelihood(network, latents, conditions, drawn, temperature=0.1)
            .values.sum()
        )

    parameters: list[torch.Tensor] = [p for p in network.parameters() if p.requires_grad]
    gradient = torch.autograd.grad(value(), parameters, allow_unused=True)
    pairs = [(p, g) for p, g in zip(parameters, gradient, strict=True) if g is not None]
    assert len(pairs) > 0.8 * len(parameters)
    length = math.sqrt(sum(float(g.double().square().sum()) for _, g in pairs))
    step, ends = 1e-2 / max(length, 1), []
    with torch.no_grad():
        for change in (step, -2 * step):
            for parameter, part in pairs:
                parameter += change * part / length
            ends.append(float(value()))
    numeric = (ends[0] - ends[1]) / (2 * step)
    assert numeric == pytest.approx(length, rel=3e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_policy_and_reference_agree_until_one_of_them_learns(
    kind: str, loaded: Callable[[str], Loaded]
) -> None:
    family = loaded(kind)
    latents, conditions, drawn = case(family)
    networks = family.network, copy.deepcopy(family.network)
    with torch.no_grad():
        values = [
            family.log_likelihood(network, latents, conditions, drawn, temperature=1e-3).values
            for network in networks
        ]
        residual = family.residual(family.network, latents, conditions, drawn)
    assert torch.equal(values[0], values[1])
    assert values[0].shape == (2,)
    assert values[0].dtype == torch.float32
    expected = torch.stack([-1000 * one.square().mean() for one in residual])
    torch.testing.assert_close(values[0], expected)


@pytest.mark.parametrize("kind", ["sdxl", "sd3", "flux", "zimage", "wan"])
def test_a_saved_model_is_a_stock_pipeline_with_the_new_network(
    kind: str, folders: Callable[[str], Path], loaded: Callable[[str], Loaded], tmp_path: Path
) -> None:
    from diffusers import DiffusionPipeline

    family = loaded(kind)
    changed = copy.deepcopy(family.network)
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.mul_(1.5)
    family.save(changed, tmp_path / "tuned")
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "tuned")
    found = getattr(pipeline, family.network_part).state_dict()
    for name, value in changed.state_dict().items():
        assert torch.equal(found[name], value), name
    tuned = load(kind, tmp_path / "tuned")
    assert tuned.describe() != family.describe()
    assert load(kind, folders(kind)).describe() == family.describe()
