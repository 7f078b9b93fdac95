from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.models import write_random_diffusion
from tgo.pipeline.errors import InputError
from tgo.pipeline.generators.base import Corruption, NoiseLevels, select_rows
from tgo.pipeline.generators.diffusion import Diffusion

PROMPTS = ["a red circle", "a blue square on a dog", "a green triangle above a yellow circle"]
SEEDS = [7, 2**62 + 1, 0]


def load(folder: Path, *, guidance_scale: float = 2.0, steps: int = 3) -> Diffusion:
    return Diffusion.load(
        str(folder), steps=steps, guidance_scale=guidance_scale, dtype="float32", device="cpu"
    )


@pytest.fixture(scope="module")
def family(tiny_generator: Path) -> Diffusion:
    return load(tiny_generator)


@pytest.fixture(scope="module")
def latents(family: Diffusion) -> torch.Tensor:
    return torch.randn(3, *family.latent_shape, generator=torch.Generator().manual_seed(1))


def sample(family: Diffusion, prompts: list[str], seeds: list[int]) -> torch.Tensor:
    embedded = family.encode_prompts([*prompts, ""])
    empty = select_rows(embedded, -1)
    return family.sample(select_rows(embedded, slice(-1)), empty, family.initial_noise(seeds))


@pytest.mark.parametrize(
    ("prediction_type", "guidance_scale"),
    [("v_prediction", 2.0), ("v_prediction", 1.0), ("epsilon", 7.5), ("sample", 2.0)],
)
def test_the_stock_pipeline_gives_the_same_images(
    tmp_path: Path, prediction_type: str, guidance_scale: float
) -> None:
    from diffusers import StableDiffusionPipeline

    folder = write_random_diffusion(tmp_path / "model", prediction_type=prediction_type)
    family = load(folder, guidance_scale=guidance_scale)
    stock = StableDiffusionPipeline.from_pretrained(folder)
    stock.set_progress_bar_config(disable=True)
    expected = stock(
        PROMPTS,
        num_inference_steps=3,
        guidance_scale=guidance_scale,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        output_type="np",
    ).images
    images = family.decode(sample(family, PROMPTS, SEEDS))
    assert images.shape == (3, 3, 16, 16)
    np.testing.assert_array_equal(
        images.permute(0, 2, 3, 1).numpy(), (expected * 255).round().astype(np.uint8)
    )


def test_noise_is_a_matter_of_the_seed_alone(family: Diffusion) -> None:
    together = family.initial_noise(SEEDS)
    for seed, noise in zip(SEEDS, together, strict=True):
        assert torch.equal(family.initial_noise([seed])[0], noise)
    state = torch.get_rng_state()
    family.initial_noise(SEEDS)
    assert torch.equal(torch.get_rng_state(), state)


def test_sampling_is_deterministic_and_nearly_free_of_the_batch(family: Diffusion) -> None:
    together = sample(family, PROMPTS, SEEDS)
    assert torch.equal(sample(family, PROMPTS, SEEDS), together)
    alone = sample(family, PROMPTS[1:2], SEEDS[1:2])
    torch.testing.assert_close(alone[0], together[1], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(sample(family, PROMPTS[1:2], [8])[0], together[1], atol=0.1)


@pytest.mark.parametrize(("guidance_scale", "forwards"), [(1.0, 3), (1.5, 6)])
def test_guidance_of_one_costs_no_second_forward(
    tiny_generator: Path, guidance_scale: float, forwards: int
) -> None:
    family = load(tiny_generator, guidance_scale=guidance_scale)
    seen: list[int] = []
    family.network.register_forward_hook(lambda _m, inputs, _o: seen.append(len(inputs[0])))
    sample(family, PROMPTS[:1], SEEDS[:1])
    assert sum(seen) == forwards


def test_images_are_encoded_to_the_codes_they_decode_from(
    family: Diffusion, latents: torch.Tensor
) -> None:
    from diffusers import AutoencoderKL

    images = family.decode(latents)
    found = family.encode(images)
    assert found.dtype == family.latent_dtype
    assert found.shape == latents.shape
    assert torch.equal(family.encode(images), found)
    torch.manual_seed(1)  # the posterior's mode, whatever was drawn before
    assert torch.equal(family.encode(images[1:2])[0], found[1])
    vae = AutoencoderKL.from_pretrained(family._folder.path / "vae")
    with torch.no_grad():
        posterior = vae.encode(images.float() / 127.5 - 1).latent_dist
    torch.testing.assert_close(found, (posterior.mode() * 0.5).half(), rtol=1e-2, atol=1e-3)
    with pytest.raises(InputError, match="are 16 x 8 pixels, the model makes 16 x 16"):
        family.encode(images[..., :8, :])


def corruption(family: Diffusion, latents: torch.Tensor, seed: int = 3) -> Corruption:
    return family.corrupt(latents, torch.Generator().manual_seed(seed))


def test_corruption_follows_its_generator(family: Diffusion, latents: torch.Tensor) -> None:
    one, two = corruption(family, latents), corruption(family, latents)
    assert torch.equal(one.noise, two.noise)
    assert torch.equal(one.timesteps, two.timesteps)
    assert one.timesteps.dtype == torch.int64
    many = family.corrupt(latents[:1].expand(4000, -1, -1, -1), torch.Generator().manual_seed(0))
    assert many.timesteps.min() < 5
    assert 995 <= many.timesteps.max() <= 999
    assert not torch.equal(corruption(family, latents, seed=4).noise, one.noise)


@pytest.mark.parametrize("prediction_type", ["v_prediction", "epsilon", "sample"])
def test_log_likelihood_is_the_mean_squared_error_over_temperature(
    tmp_path: Path, prediction_type: str
) -> None:
    family = load(write_random_diffusion(tmp_path / "m", prediction_type=prediction_type))
    clean = torch.randn(3, *family.latent_shape)
    drawn = corruption(family, clean)
    conditions = family.encode_prompts(PROMPTS)
    scheduler = json.loads((tmp_path / "m/scheduler/scheduler_config.json").read_text())
    assert scheduler["prediction_type"] == prediction_type
    alphas = family._schedule.alphas_cumprod[drawn.timesteps].view(-1, 1, 1, 1)
    a, b = alphas.sqrt(), (1 - alphas).sqrt()
    target = {
        "epsilon": drawn.noise,
        "sample": clean,
        "v_prediction": a * drawn.noise - b * clean,
    }[prediction_type]
    with torch.no_grad():
        predicted = family.network(
            a * clean + b * drawn.noise,
            drawn.timesteps,
            encoder_hidden_states=conditions["embeddings"],
        ).sample
        found = family.log_likelihood(
            family.network, clean, conditions, drawn, temperature=1e-3
        ).values
    assert found.shape == (3,)
    assert found.dtype == torch.float32
    expected = torch.stack(
        [-1000 * ((t - p) ** 2).mean() for t, p in zip(target, predicted, strict=True)]
    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("prediction_type", ["v_prediction", "epsilon", "sample"])
def test_a_residual_tells_the_error_of_the_clean_codes(
    tmp_path: Path, prediction_type: str
) -> None:
    family = load(write_random_diffusion(tmp_path / "m", prediction_type=prediction_type))
    assert isinstance(family, NoiseLevels)
    timesteps = family.timesteps_at(torch.tensor([0.0, 0.5, 0.9, 1.0]))
    assert timesteps.tolist() == [0, 500, 900, 999]
    ratio, factor = family.signal_to_noise(timesteps[:3])
    alphas = family._schedule.alphas_cumprod[timesteps[:3]]
    torch.testing.assert_close(ratio, alphas / (1 - alphas))
    # the log-likelihood of a prediction that is off by 1 everywhere
    wrong = {
        "epsilon": ((1 - alphas) / alphas).sqrt(),  # x0 = (x_t - sqrt(1 - a) noise) / sqrt(a)
        "v_prediction": (1 - alphas).sqrt(),  # x0 = sqrt(a) x_t - sqrt(1 - a) v
        "sample": torch.ones(3),
    }[prediction_type]
    torch.testing.assert_close(factor, wrong.square())
    last, last_factor = family.signal_to_noise(timesteps[3:])
    assert (last * last_factor).isfinite().all()


def test_zero_terminal_snr_reaches_pure_noise(family: Diffusion) -> None:
    assert float(family._schedule.alphas_cumprod[-1]) == pytest.approx(0, abs=1e-6)


def test_the_gradient_of_log_likelihood_matches_a_numeric_one(
    tiny_generator: Path, latents: torch.Tensor
) -> None:
    family = load(tiny_generator)
    network = family.network.double().requires_grad_(True)
    conditions = family.encode_prompts(PROMPTS)
    drawn = corruption(family, latents)

    def value() -> torch.Tensor:
        return family.log_likelihood(
            network, latents, conditions, drawn, temperature=0.1
        ).values.sum()

    parameters: list[torch.Tensor] = list(network.parameters())
    gradient = torch.autograd.grad(value(), parameters)
    length = torch.sqrt(sum((part.double() ** 2).sum() for part in gradient))  # type: ignore[arg-type]
    step = 1e-2
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            for parameter, part in zip(parameters, gradient, strict=True):
                parameter += sign * step * part / length
            ends.append(value())
            for parameter, part in zip(parameters, gradient, strict=True):
                parameter -= sign * step * part / length
    numeric = float(ends[0] - ends[1]) / (2 * step)
    assert numeric == pytest.approx(float(length), rel=1e-2)


def test_policy_and_reference_agree_until_one_of_them_learns(
    family: Diffusion, latents: torch.Tensor
) -> None:
    reference = copy.deepcopy(family.network)
    conditions, drawn = family.encode_prompts(PROMPTS), corruption(family, latents)
    with torch.no_grad():
        ratio = (
            family.log_likelihood(
                family.network, latents, conditions, drawn, temperature=1e-3
            ).values
            - family.log_likelihood(reference, latents, conditions, drawn, temperature=1e-3).values
        )
    assert torch.equal(ratio, torch.zeros(3))


def test_a_saved_model_is_a_stock_pipeline_with_the_new_network(
    tiny_generator: Path, tmp_path: Path
) -> None:
    from diffusers import DiffusionPipeline

    family = load(tiny_generator)
    changed = copy.deepcopy(family.network)
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.mul_(1.5)
    family.save(changed, tmp_path / "tuned")
    loaded = DiffusionPipeline.from_pretrained(tmp_path / "tuned")
    for name, value in loaded.unet.state_dict().items():
        assert torch.equal(value, changed.state_dict()[name])
    for part in ("vae/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json"):
        assert (tmp_path / "tuned" / part).read_bytes() == (tiny_generator / part).read_bytes()
    files = [path for path in (tmp_path / "tuned").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".safetensors"}
    assert load(tmp_path / "tuned").describe() != family.describe()
    assert load(tmp_path / "tuned").describe()["steps"] == 3


def test_the_description_names_every_byte_of_the_model(
    tiny_generator: Path, tmp_path: Path
) -> None:
    copied = tmp_path / "model"
    shutil.copytree(tiny_generator, copied)
    assert load(copied).describe() == load(tiny_generator).describe()
    assert json.dumps(load(copied).describe())
    config = copied / "scheduler/scheduler_config.json"
    config.write_text(config.read_text().replace("1000", "999"))
    assert load(copied).describe() != load(tiny_generator).describe()


def harm(folder: Path, name: str, change: Any) -> None:
    path = folder / name
    path.write_bytes(change(path.read_bytes()))


def without_a_weight(data: bytes) -> bytes:
    from safetensors.torch import load, save

    state = load(data)
    state.pop(sorted(state)[0])
    return save(state)


@pytest.mark.parametrize(
    ("name", "change", "parts"),
    [
        ("model_index.json", lambda data: data[:20], ["model_index.json", "damaged"]),
        (
            "unet/diffusion_pytorch_model.safetensors",
            lambda data: data[:-9],
            ["unet/diffusion_pytorch_model.safetensors", "truncated"],
        ),
        (
            "text_encoder/model.safetensors",
            lambda data: data[:9],
            ["text_encoder/model.safetensors", "truncated"],
        ),
        (
            "unet/diffusion_pytorch_model.safetensors",
            without_a_weight,
            ["unet", "missing"],
        ),
        ("vae/diffusion_pytorch_model.safetensors", without_a_weight, ["vae", "missing"]),
        ("text_encoder/model.safetensors", without_a_weight, ["text_encoder", "missing"]),
        ("unet/config.json", lambda _: b"{", ["unet"]),
        (
            "model_index.json",
            lambda data: data.replace(b"DDIMScheduler", b"DDPMScheduler"),
            ["DDPMScheduler draws noise at every step", "DDIMScheduler"],
        ),
        (
            "scheduler/scheduler_config.json",
            lambda data: data.replace(b"v_prediction", b"flow_prediction"),
            ["flow_prediction", "v_prediction"],
        ),
    ],
)
def test_a_damaged_model_is_named(
    tiny_generator: Path, tmp_path: Path, name: str, change: Any, parts: list[str]
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_generator, folder)
    harm(folder, name, change)
    with pytest.raises(InputError) as caught:
        load(folder).encode_prompts(PROMPTS)  # this loads the text encoders
    line = str(caught.value)
    assert line.startswith(str(folder))
    assert "\n" not in line
    assert all(part in line for part in parts), line


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such model folder"):
        load(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="not a model folder"):
        load(tmp_path / "empty")
