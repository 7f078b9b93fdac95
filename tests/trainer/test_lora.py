from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.trainer.miniature import make_settings
from tgo.pipeline.generators import load_generator
from tgo.trainer import lora_weights

PROMPT = "a red circle"
RANK, ALPHA = 4, 12  # not equal: their ratio must be part of what is written


def adapted(network: torch.nn.Module, targets: list[str]) -> torch.nn.Module:
    """A network with random adapters, as peft puts them in."""
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        inject_adapter_in_model(config, network)
        for name, parameter in network.named_parameters():
            if "lora_" in name:
                parameter.data.normal_(0, 0.3)
    return network


@pytest.fixture
def folder(model: Path, tmp_path: Path) -> Path:
    """A copy of the base model with a file of random adapters beside it."""
    copy = tmp_path / "tuned"
    shutil.copytree(model, copy)
    network = load_generator(make_settings(model).generator).network
    lora_weights.write(
        lora_weights.take(adapted(network, ["to_q", "to_k", "to_v", "to_out.0"])), copy
    )
    return copy


def test_a_stock_pipeline_with_the_file_draws_what_our_policy_does(
    model: Path, folder: Path
) -> None:
    from diffusers import StableDiffusionPipeline

    generator = make_settings(model).generator
    family = load_generator(generator)
    family.network = adapted(family.network, ["to_q", "to_k", "to_v", "to_out.0"])
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
    pipe.load_lora_weights(folder, weight_name=lora_weights.LORA)
    np.testing.assert_allclose(stock(), ours / 255, atol=1 / 255)
    assert np.abs(before - ours / 255).max() > 0.02


def test_the_file_has_diffusers_names_and_the_scale(folder: Path) -> None:
    from safetensors import safe_open

    with safe_open(folder / lora_weights.LORA, framework="pt") as file:
        names = list(file.keys())
        told = json.loads(file.metadata()["lora_adapter_metadata"])
    assert all(name.startswith("unet.") and name.endswith(".weight") for name in names)
    assert (told["unet.r"], told["unet.lora_alpha"]) == (RANK, RANK)


def test_the_same_adapters_are_the_same_bytes(model: Path, folder: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    shutil.copytree(model, again)
    network = load_generator(make_settings(model).generator).network
    targets = ["to_out.0", "to_v", "to_k", "to_q"]
    lora_weights.write(lora_weights.take(adapted(network, targets)), again)
    assert (again / lora_weights.LORA).read_bytes() == (folder / lora_weights.LORA).read_bytes()
