"""A folder of adapters stands for its base model with them, and only for that one."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests import adapters
from tests.families import PROMPTS, SEEDS, sample
from tests.trainer.miniature import make_settings
from tgo.pipeline.config.settings import Settings
from tgo.pipeline.errors import InputError
from tgo.pipeline.generators import load_generator, model_sha256
from tgo.pipeline.generators.adapters import read, stacked
from tgo.pipeline.generators.base_model import adapted_model, base_of, is_model
from tgo.pipeline.layout import BASE_MODEL, LORA


@pytest.fixture
def settings(folders: Callable[[str], Path], tmp_path: Path) -> Settings:
    """A model that a test may change."""
    shutil.copytree(folders("sd15"), tmp_path / "base")
    return make_settings(tmp_path / "base")


@pytest.fixture
def adapted(settings: Settings, tmp_path: Path) -> Path:
    return adapters.write(load_generator(settings.generator), tmp_path / "adapted")


def test_it_names_its_base_and_is_small(settings: Settings, adapted: Path) -> None:
    base = base_of(adapted)
    assert base is not None
    assert base.source == settings.generator.model == adapted_model(str(adapted))
    assert base.sha256 == model_sha256(settings.generator)
    assert base.pipeline == "StableDiffusionPipeline"
    assert is_model(adapted)
    assert {path.name for path in adapted.iterdir()} == {LORA, BASE_MODEL}
    assert base_of(Path(base.source)) is None


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_are_those_of_the_base_and_the_adapters_rounded_once(
    settings: Settings, adapted: Path, dtype: str
) -> None:
    generator = settings.generator.model_copy(update={"dtype": dtype})
    plain = load_generator(generator).network.state_dict()
    found = load_generator(generator, adapted).network
    assert not any(parameter.requires_grad for parameter in found.parameters())
    weights = read(adapted, "unet").weights
    changed = {name.removesuffix(".lora_A.weight") for name in weights if "lora_A" in name}
    for name, value in found.state_dict().items():
        expected = plain[name]
        if (module := name.removesuffix(".weight")) in changed:
            added = weights[f"{module}.lora_B.weight"] @ weights[f"{module}.lora_A.weight"]
            expected = (expected.float() + added).to(expected.dtype)
        assert torch.equal(value, expected), name
        assert value.dtype == getattr(torch, dtype)


def test_images_are_those_of_the_adapted_network(settings: Settings, adapted: Path) -> None:
    ours, policy = load_generator(settings.generator, adapted), load_generator(settings.generator)
    before = sample(policy, PROMPTS, SEEDS)
    adapters.put_into(policy.network)
    torch.testing.assert_close(
        sample(ours, PROMPTS, SEEDS), sample(policy, PROMPTS, SEEDS), atol=1e-4, rtol=1e-4
    )
    assert (sample(ours, PROMPTS, SEEDS) - before).abs().max() > 1e-2


def test_quantised_weights_keep_the_adapters_beside_them(settings: Settings, adapted: Path) -> None:
    pytest.importorskip("torchao")
    generator = settings.generator.model_copy(update={"quantization": "int8"})
    family = load_generator(generator, adapted)
    weights = adapters.weights_of(family.network)
    assert {value.dtype for value in weights.values()} == {torch.float32}
    exact = sample(load_generator(settings.generator, adapted), PROMPTS, SEEDS)
    near = (sample(family, PROMPTS, SEEDS) - exact).norm() / exact.norm()
    assert 0 < near < 0.1


def test_the_checksum_is_that_of_base_and_adapters(settings: Settings, adapted: Path) -> None:
    found = model_sha256(settings.generator, adapted)
    assert found == load_generator(settings.generator, adapted).describe()["model_sha256"]
    assert found != model_sha256(settings.generator)
    other = adapted.with_name("other")
    adapters.write(load_generator(settings.generator), other, std=0.2)
    assert model_sha256(settings.generator, other) != found


def test_another_base_is_refused(settings: Settings, adapted: Path, tmp_path: Path) -> None:
    config = tmp_path / "base/scheduler/scheduler_config.json"
    before = config.read_text()
    config.write_text(before + " ")
    for use in (load_generator, model_sha256):
        with pytest.raises(InputError, match=r"adapted: its adapters are for .*base as it was"):
            use(settings.generator, adapted)
    config.write_text(before)
    (tmp_path / "base").rename(tmp_path / "moved")
    named = re.escape(str(adapted / BASE_MODEL))
    with pytest.raises(InputError, match=rf"its base model .*base is not here; .*{named}"):
        load_generator(settings.generator, adapted)
    told = json.loads((adapted / BASE_MODEL).read_text())
    told["base_model"] = str(tmp_path / "moved")
    (adapted / BASE_MODEL).write_text(json.dumps(told))
    load_generator(settings.generator, adapted)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (BASE_MODEL, "{", r"base_model\.json"),
        (BASE_MODEL, "{}", r"base_model\.json: does not say base_model, sha256 and pipeline"),
        (LORA, "damaged", r"pytorch_lora_weights\.safetensors: cannot be loaded|cannot be read"),
    ],
)
def test_damage_is_one_line(
    settings: Settings, adapted: Path, name: str, content: str, said: str
) -> None:
    (adapted / name).write_text(content)
    with pytest.raises(InputError, match=said):
        load_generator(settings.generator, adapted)


def test_adapters_on_adapters_add_up_in_one_file(
    settings: Settings, adapted: Path, tmp_path: Path
) -> None:
    family = load_generator(settings.generator, adapted)
    options = {"rank": 2, "alpha": 2.0, "targets": ["to_q", "ff.net.2"]}
    both = adapters.write(family, tmp_path / "both", **options)
    assert adapted_model(str(both)) == settings.generator.model
    family.network.fuse_lora()  # type: ignore[operator]
    family.network.unload_lora()  # type: ignore[operator]
    found = load_generator(settings.generator, both).network.state_dict()
    for name, value in family.network.state_dict().items():
        torch.testing.assert_close(found[name], value)
    ranks = {len(v) for name, v in read(both, "unet").weights.items() if "lora_A" in name}
    assert ranks == {2, 4, 6}
    one = read(adapted, "unet")
    assert stacked(one, one).config["r"] == 8

    from diffusers import StableDiffusionPipeline

    stock = StableDiffusionPipeline.from_pretrained(tmp_path / "base", safety_checker=None)
    stock.load_lora_weights(both, weight_name=LORA)
    stock.fuse_lora()
    stock.unload_lora_weights()
    for name, value in stock.unet.state_dict().items():
        torch.testing.assert_close(found[name], value)
