from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.masked_models import CODEBOOK, write_random_amused, write_random_meissonic
from tgo.pipeline.errors import InputError
from tgo.pipeline.generators import FAMILIES, MASKED, family_class
from tgo.pipeline.generators.amused import Amused
from tgo.pipeline.generators.base import Conditions, Corruption, Regressor, select_rows
from tgo.pipeline.generators.masked import Masked
from tgo.pipeline.generators.meissonic import Meissonic
from tgo.pipeline.generators.sizes import Resolution, Size

PROMPTS = ["a red circle", "a blue square on a dog", "a green triangle above a yellow circle"]
SEEDS = [7, 2**62 + 1, 0]
KINDS: dict[str, tuple[type[Masked], Callable[[Path], Path]]] = {
    "amused": (Amused, write_random_amused),
    "meissonic": (Meissonic, write_random_meissonic),
}


def load(
    folder: Path,
    kind: str,
    *,
    guidance_scale: float = 3.0,
    steps: int = 4,
    resolution: Resolution = None,
) -> Masked:
    return KINDS[kind][0].load(
        str(folder),
        steps=steps,
        guidance_scale=guidance_scale,
        dtype="float32",
        device="cpu",
        resolution=resolution,
    )


@pytest.fixture(scope="module", params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return KINDS[kind][1](tmp_path_factory.mktemp(kind) / "model")


@pytest.fixture(scope="module")
def family(folder: Path, kind: str) -> Masked:
    return load(folder, kind)


@pytest.fixture(scope="module")
def latents() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(CODEBOOK, (3, 8, 8), generator=generator, dtype=torch.int32)


def sample(family: Masked, prompts: list[str], seeds: list[int]) -> torch.Tensor:
    read = family.encode_prompts([*prompts, ""])
    given, nothing = select_rows(read, slice(-1)), select_rows(read, -1)
    return family.sample(given, nothing, family.initial_noise(seeds))


def test_conditions_are_words_and_one_vector(family: Masked) -> None:
    read = family.encode_prompts(PROMPTS)
    assert {name: tuple(value.shape) for name, value in read.items()} == {
        "embeddings": (3, 12, 16),
        "pooled": (3, 16),
    }
    assert all(value.dtype == torch.float32 for value in read.values())
    assert not torch.allclose(read["pooled"][0], read["pooled"][1])


def test_an_image_is_a_matter_of_its_own_seed(family: Masked) -> None:
    together = sample(family, PROMPTS, SEEDS)
    assert together.shape == (3, 8, 8)
    assert together.dtype == torch.float32
    assert torch.equal(together, together.round())
    assert together.min() >= 0
    assert together.max() < CODEBOOK
    state = torch.get_rng_state()
    assert torch.equal(sample(family, PROMPTS, SEEDS), together)
    assert torch.equal(torch.get_rng_state(), state)
    order = [2, 0, 1]
    moved = sample(family, [PROMPTS[i] for i in order], [SEEDS[i] for i in order])
    assert torch.equal(moved, together[order])
    for at, (prompt, seed) in enumerate(zip(PROMPTS, SEEDS, strict=True)):
        assert torch.equal(sample(family, [prompt], [seed])[0], together[at])
    assert not torch.equal(sample(family, PROMPTS[:1], [8])[0], together[0])


def test_a_prompt_and_guidance_change_the_image(folder: Path, kind: str, family: Masked) -> None:
    one = sample(family, PROMPTS[:1], SEEDS[:1])
    assert not torch.equal(sample(family, PROMPTS[1:2], SEEDS[:1]), one)
    assert not torch.equal(
        sample(load(folder, kind, guidance_scale=30.0), PROMPTS[:1], SEEDS[:1]), one
    )


@pytest.mark.parametrize(("guidance_scale", "forwards"), [(1.0, 4), (1.5, 8)])
def test_guidance_of_one_costs_no_second_forward(
    folder: Path, kind: str, guidance_scale: float, forwards: int
) -> None:
    family = load(folder, kind, guidance_scale=guidance_scale)
    seen: list[int] = []
    logits = family._logits

    def counting(
        network: Any, tokens: torch.Tensor, conditions: Any, timesteps: Any
    ) -> torch.Tensor:
        seen.append(len(tokens))
        return logits(network, tokens, conditions, timesteps)

    family._logits = counting  # type: ignore[method-assign]
    sample(family, PROMPTS[:1], SEEDS[:1])
    assert sum(seen) == forwards


def test_sampling_shows_the_network_what_training_does(folder: Path, kind: str) -> None:
    """The timestep says in both how many thousandths of the input are hidden."""
    family = load(folder, kind, guidance_scale=1.0)
    seen: list[tuple[float, int]] = []
    logits = family._logits

    def noting(network: Any, tokens: torch.Tensor, conditions: Any, timesteps: Any) -> torch.Tensor:
        hidden = (tokens == family._mask).flatten(1).float().mean(dim=1)
        told = timesteps.tolist()
        seen.extend(zip((1000 * hidden).round().tolist(), told, strict=True))
        return logits(network, tokens, conditions, timesteps)

    family._logits = noting  # type: ignore[method-assign]
    drawn = sample(family, PROMPTS, SEEDS).int()
    family.log_likelihood(
        family.network,
        drawn,
        family.encode_prompts(PROMPTS),
        family.corrupt(drawn, torch.Generator().manual_seed(0)),
        temperature=1.0,
    )
    assert len(seen) == 4 * 3 + 3
    assert all(hidden == told for hidden, told in seen)
    assert seen[0] == (1000, 1000)


def test_a_network_that_overflows_gives_no_codes(folder: Path, kind: str) -> None:
    family = load(folder, kind)
    network: Any = family.network
    network.mlm_layer.conv2.weight.data[0] = torch.nan
    assert sample(family, PROMPTS, SEEDS).isnan().all()


def test_codes_decode_to_images_and_encode_again(family: Masked, latents: torch.Tensor) -> None:
    images = family.decode(latents)
    assert images.shape == (3, 3, 16, 16)
    assert images.dtype == torch.uint8
    assert torch.equal(family.decode(latents[1:2])[0], images[1])
    found = family.encode(images)
    assert found.dtype == torch.int32
    assert found.shape == latents.shape
    assert found.min() >= 0
    assert found.max() < CODEBOOK


def test_encoding_takes_the_nearest_of_the_codebook(family: Masked) -> None:
    images = torch.randint(256, (2, 3, 16, 16), dtype=torch.uint8)
    with torch.no_grad():
        latents = family._vqvae.encode(images / 255).latents
    centres = family._vqvae.quantize.embedding.weight
    distances = (latents.permute(0, 2, 3, 1)[..., None, :] - centres).norm(dim=-1)
    assert torch.equal(family.encode(images), distances.argmin(dim=-1).int())


def conditions_of(family: Masked) -> Conditions:
    """Ordinary tensors, as training reads from a file, not inference-mode ones."""
    return {name: value.clone() for name, value in family.encode_prompts(PROMPTS).items()}


def corruption(family: Masked, latents: torch.Tensor, seed: int = 3) -> Corruption:
    return family.corrupt(latents, torch.Generator().manual_seed(seed))


def test_log_likelihood_is_a_mean_over_a_samples_own_hidden_tokens(
    family: Masked, latents: torch.Tensor
) -> None:
    drawn, conditions = corruption(family, latents), family.encode_prompts(PROMPTS)
    assert len(set(drawn.timesteps.tolist())) > 1
    with torch.no_grad():
        found = family.log_likelihood(
            family.network, latents, conditions, drawn, temperature=1.0
        ).values
        for at in range(3):
            one = slice(at, at + 1)
            hidden = drawn.noise[at]
            shown = torch.where(hidden, family._mask, latents[at].long())[None]
            logits = family._logits(
                family.network, shown, select_rows(conditions, one), drawn.timesteps[one]
            )
            told = torch.log_softmax(logits[0].double(), dim=0)
            values = [
                told[latents[at, row, column], row, column]
                for row, column in hidden.nonzero().tolist()
            ]
            assert float(found[at]) == pytest.approx(float(sum(values)) / len(values), rel=1e-5)
        halved = family.log_likelihood(
            family.network, latents, conditions, drawn, temperature=2.0
        ).values
    torch.testing.assert_close(halved, found / 2)
    assert found.dtype == torch.float32


def test_what_is_shown_does_not_count(family: Masked, latents: torch.Tensor) -> None:
    """Shown tokens are context only: how well they are predicted does not count."""
    drawn, conditions = corruption(family, latents), family.encode_prompts(PROMPTS)
    everything = Corruption(torch.full((3,), 1000), torch.ones_like(drawn.noise))
    one = Corruption(drawn.timesteps, torch.zeros_like(drawn.noise))
    one.noise[:, 4, 4] = True
    with torch.no_grad():
        all_hidden, one_hidden = (
            family.log_likelihood(family.network, latents, conditions, c, temperature=1.0).values
            for c in (everything, one)
        )
    assert not torch.allclose(all_hidden, one_hidden)


def test_the_gradient_of_log_likelihood_matches_a_numeric_one(
    folder: Path, kind: str, latents: torch.Tensor
) -> None:
    family = load(folder, kind)
    network = family.network.requires_grad_(True)
    conditions, drawn = conditions_of(family), corruption(family, latents)

    def value() -> torch.Tensor:
        found = family.log_likelihood(network, latents, conditions, drawn, temperature=1.0).values
        return found.double().sum()

    parameters: list[torch.Tensor] = [p for p in network.parameters() if p.requires_grad]
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
    assert numeric == pytest.approx(float(length), rel=2e-2)


def test_policy_and_reference_agree_until_one_of_them_learns(
    family: Masked, latents: torch.Tensor
) -> None:
    reference = copy.deepcopy(family.network)
    given = family.encode_prompts(PROMPTS), corruption(family, latents)
    with torch.no_grad():
        ratio = (
            family.log_likelihood(family.network, latents, *given, temperature=1.0).values
            - family.log_likelihood(reference, latents, *given, temperature=1.0).values
        )
    assert torch.equal(ratio, torch.zeros(3))


def test_corruption_follows_its_generator(family: Masked, latents: torch.Tensor) -> None:
    one, two = corruption(family, latents), corruption(family, latents)
    assert torch.equal(one.noise, two.noise)
    assert torch.equal(one.timesteps, two.timesteps)
    assert one.timesteps.dtype == torch.int64
    assert not torch.equal(corruption(family, latents, seed=4).noise, one.noise)


def test_no_regression_is_claimed(family: Masked) -> None:
    assert not isinstance(family, Regressor)


def test_settings_know_the_masked_families() -> None:
    found = {name for name in FAMILIES if issubclass(family_class(name), Masked)}
    assert found == set(MASKED)


def test_a_saved_model_has_the_new_network(folder: Path, kind: str, tmp_path: Path) -> None:
    family = load(folder, kind)
    changed = copy.deepcopy(family.network)
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.mul_(1.5)
    family.save(changed, tmp_path / "tuned")
    found = load(tmp_path / "tuned", kind)
    for name, value in found.network.state_dict().items():
        assert torch.equal(value, changed.state_dict()[name])
    kept = "vqvae/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "tuned" / kept).read_bytes() == (folder / kept).read_bytes()
    assert found.describe() != family.describe()
    assert json.dumps(found.describe())


@pytest.mark.parametrize(
    ("name", "change", "parts"),
    [
        ("vqvae/config.json", (b'book": true', b'book": false'), ["lookup_from_codebook"]),
        ("scheduler/scheduler_config.json", (b"cosine", b"linear"), ["linear", "use cosine"]),
        ("transformer/config.json", (b'"num_', b'"was_num_'), ["transformer"]),
    ],
)
def test_a_model_that_does_not_fit_is_named(
    folder: Path, kind: str, tmp_path: Path, name: str, change: tuple[bytes, bytes], parts: Any
) -> None:
    copied = tmp_path / "model"
    shutil.copytree(folder, copied)
    path = copied / name
    path.write_bytes(path.read_bytes().replace(*change))
    with pytest.raises(InputError) as caught:
        load(copied, kind)
    line = str(caught.value)
    assert line.startswith(str(copied))
    assert "\n" not in line
    assert all(part in line for part in parts), line


def test_gradient_checkpointing_works_or_is_refused(folder: Path, kind: str) -> None:
    family = load(folder, kind)
    network: Any = family.network.requires_grad_(True)
    if kind == "amused":
        with pytest.raises(ValueError, match="does not support gradient checkpointing"):
            network.enable_gradient_checkpointing()
        return
    latents = torch.zeros(2, 8, 8, dtype=torch.int32)
    given = family.encode_prompts(PROMPTS[:2]), corruption(family, latents)
    gradients = []
    for _ in range(2):
        value = family.log_likelihood(network, latents, *given, temperature=1.0).values.sum()
        gradients.append(torch.autograd.grad(value, list(network.parameters())))
        network.enable_gradient_checkpointing()
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_a_wide_image_is_told_of_as_such(folder: Path, kind: str, family: Masked) -> None:
    (own,) = family.latent_shapes
    wide = Size(2 * own.width, own.height)
    other = load(folder, kind, resolution=[own, wide])
    noise = other.initial_noise(SEEDS, wide)
    assert noise.shape == (3, 4, 2, 8, 16)
    read = other.encode_prompts([*PROMPTS, ""])
    given, nothing = select_rows(read, slice(-1)), select_rows(read, -1)
    tokens = other.sample(given, nothing, noise)
    assert tokens.shape == (3, 8, 16)
    images = other.decode(tokens)
    assert images.shape == (3, 3, wide.height, wide.width)
    assert other.encode(images).shape == tokens.shape
    drawn = other.corrupt(tokens, torch.Generator().manual_seed(0))
    found = other.log_likelihood(other.network, tokens, given, drawn, temperature=1.0)
    assert found.values.isfinite().all()
    assert torch.equal(sample(other, PROMPTS, SEEDS), sample(family, PROMPTS, SEEDS))


def test_sides_are_multiples_of_what_the_network_reads(
    folder: Path, kind: str, family: Masked
) -> None:
    options = {"steps": 4, "guidance_scale": 3.0, "dtype": "float32", "device": "cpu"}
    (own,) = family.latent_shapes
    kinds = KINDS[kind][0]
    same = kinds.load(str(folder), resolution=own.width, **options)
    assert same.latent_shapes == family.latent_shapes
    with pytest.raises(InputError, match=rf"generator\.resolution: {own.width + 1} is no multiple"):
        kinds.load(str(folder), resolution=own.width + 1, **options)


@pytest.mark.parametrize("size", [None, Size(24, 16), Size(16, 32)])
@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
def test_the_stock_pipeline_gives_the_same_images_for_the_same_randomness(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, guidance_scale: float, size: Size | None
) -> None:
    """Stock draws come from `multinomial` and `gumbel_noise`, which get our numbers here."""
    from diffusers import AmusedPipeline
    from diffusers.schedulers import scheduling_amused

    folder = write_random_amused(tmp_path / "m")
    family = load(folder, "amused", guidance_scale=guidance_scale, resolution=size and [size])
    noise = family.initial_noise(SEEDS)
    draws = iter(noise[:, :, 0].unbind(dim=1))
    again = iter(noise[:, :, 1].unbind(dim=1))

    def by_inverse(probabilities: torch.Tensor, count: int, **_: Any) -> torch.Tensor:
        uniform = next(draws).reshape(-1, 1)
        below = probabilities.double().cumsum(dim=1)
        return (below <= uniform).sum(dim=1, keepdim=True).clamp(max=CODEBOOK - 1)

    def gumbel(like: torch.Tensor, **_: Any) -> torch.Tensor:
        return -(-next(again).flatten(1).log()).log()

    monkeypatch.setattr(scheduling_amused.torch, "multinomial", by_inverse)
    monkeypatch.setattr(scheduling_amused, "gumbel_noise", gumbel)
    stock = AmusedPipeline.from_pretrained(tmp_path / "m")
    stock.set_progress_bar_config(disable=True)
    expected = stock(
        PROMPTS,
        height=size and size.height,
        width=size and size.width,
        num_inference_steps=4,
        guidance_scale=guidance_scale,
        output_type="np",
    ).images
    images = family.decode(sample(family, PROMPTS, SEEDS))
    np.testing.assert_array_equal(
        images.permute(0, 2, 3, 1).numpy(), (expected * 255).round().astype(np.uint8)
    )
