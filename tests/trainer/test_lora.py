from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests import adapters
from tests.trainer.miniature import Place, make_settings
from tests.trainer.test_train import make_learner
from tgo.pipeline.generators import load_generator
from tgo.pipeline.generators.base_model import base_of
from tgo.pipeline.layout import BASE_MODEL, LORA
from tgo.trainer import train

PROMPT = "a red circle"
RANK, ALPHA = 4, 12  # not equal: their ratio must be part of what is written


@pytest.fixture
def folder(model: Path, tmp_path: Path) -> Path:
    """Random adapters of the base model."""
    family = load_generator(make_settings(model).generator)
    return adapters.write(family, tmp_path / "tuned", rank=RANK, alpha=ALPHA, std=0.3)


def test_a_stock_pipeline_with_the_file_draws_what_our_policy_does(
    model: Path, folder: Path
) -> None:
    from diffusers import StableDiffusionPipeline

    generator = make_settings(model).generator
    family = load_generator(generator)
    adapters.put_into(family.network, rank=RANK, alpha=ALPHA, std=0.3)
    empty = {name: value[0] for name, value in family.encode_prompts([""]).items()}
    latents = family.sample(family.encode_prompts([PROMPT]), empty, family.initial_noise([5]))
    ours = family.decode(latents)[0].permute(1, 2, 0).numpy()

    pipe = StableDiffusionPipeline.from_pretrained(model, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)

    def stock() -> np.ndarray:
        made = pipe(
            PROMPT,
            num_inference_steps=generator.steps,
            guidance_scale=generator.guidance_scale,
            generator=torch.Generator().manual_seed(5),
            output_type="np",
        )
        return made.images[0]

    before = stock()
    pipe.load_lora_weights(folder, weight_name=LORA)
    np.testing.assert_allclose(stock(), ours / 255, atol=1 / 255)
    assert np.abs(before - ours / 255).max() > 0.02


def test_the_file_has_diffusers_names_and_the_scale(folder: Path) -> None:
    from safetensors import safe_open

    with safe_open(folder / LORA, framework="pt") as file:
        names = list(file.keys())
        told = json.loads(file.metadata()["lora_adapter_metadata"])
    assert all(name.startswith("unet.") and name.endswith(".weight") for name in names)
    assert (told["unet.r"], told["unet.lora_alpha"]) == (RANK, RANK)


def test_the_same_adapters_are_the_same_bytes(model: Path, folder: Path, tmp_path: Path) -> None:
    family = load_generator(make_settings(model).generator)
    other = adapters.TARGETS[::-1]
    again = adapters.write(
        family, tmp_path / "again", rank=RANK, alpha=ALPHA, std=0.3, targets=other
    )
    for name in (LORA, BASE_MODEL):
        assert (again / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize("quantization", [None, "int8"])
def test_training_goes_on_from_adapters(
    model: Path, place: Place, quantization: str | None
) -> None:
    """As in a second round: what drew the images is the reference, and one file holds both."""
    pytest.importorskip("torchao")
    options = {"rank": 2, "alpha": 4.0, "targets": None}
    settings = make_settings(model, lora=options, steps=2, learning_rate=0.02)
    first = train.run(settings, place.paths("first"))
    update = {"model": str(first), "quantization": quantization}
    generator = settings.generator.model_copy(update=update)
    settings = settings.model_copy(update={"generator": generator})

    learner, stream = make_learner(settings, place)
    batch = next(stream.batches())
    terms = learner.terms(1, batch)
    assert torch.equal(terms.log_ratio, torch.zeros(8))
    frozen = {
        name: value.detach().clone()
        for name, value in learner._networks.network.named_parameters()
        if not value.requires_grad and value.is_floating_point() and "lora_" in name
    }
    assert bool(frozen) == (quantization is not None)
    before = load_generator(generator)
    given = learner._inputs.build(1, batch)[0]
    found = before.log_likelihood(before.network, *given[:3], temperature=1e-2)
    torch.testing.assert_close(terms.reference, found.values)
    learner.step(1, batch)
    moved = learner.terms(1, batch)
    assert torch.equal(moved.reference, terms.reference)  # type: ignore[arg-type]
    assert not torch.equal(moved.log_likelihood, terms.log_likelihood)
    after = dict(learner._networks.network.named_parameters())
    assert all(torch.equal(after[name], value) for name, value in frozen.items())

    second = train.run(settings, place.paths("second"))
    assert base_of(second) == base_of(first)
    ranks = {len(v) for k, v in load_file(second / LORA).items() if "lora_A" in k}
    assert ranks == {4}
    whole = train.run(
        settings.model_copy(
            update={
                "train": settings.train.model_copy(update={"lora": None}),
                "generator": generator.model_copy(update={"quantization": None}),
            }
        ),
        place.paths("whole"),
    )
    assert base_of(whole) is None
    assert (whole / "model_index.json").is_file()
