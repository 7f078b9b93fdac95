"""Quantised and offloaded models: loaded that way from disk, with close or equal results."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from torch.utils._python_dispatch import TorchDispatchMode

from tests.families import PROMPTS, SEEDS, Loaded, case, load, sample
from tests.trainer.miniature import make_settings
from tgo.pipeline.errors import InputError
from tgo.pipeline.generators import load_generator

METHODS = {"int8": "torchao", "nf4": "bitsandbytes"}


@pytest.mark.parametrize("kind", ["sd15", "flux", "flux2", "qwenimage", "sana"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.usefixtures("on_any_device")
def test_a_quantised_model_samples_and_its_adapters_learn(
    kind: str, method: str, folders: Callable[[str], Path]
) -> None:
    pytest.importorskip(METHODS[method])
    from peft import LoraConfig, inject_adapter_in_model

    family = load(kind, folders(kind), quantization=method, dtype="bfloat16", steps=2)
    assert family.describe()["quantization"] == method
    weights = dict(family.network.named_parameters())
    name = next(name for name in weights if name.endswith("to_q.weight"))
    assert type(weights[name]).__name__ == {"int8": "Int8Tensor", "nf4": "Params4bit"}[method]
    assert sample(family, PROMPTS, SEEDS).isfinite().all()
    config = LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"])
    inject_adapter_in_model(config, family.network)
    learning = [p for name, p in family.network.named_parameters() if "lora_" in name]
    with torch.no_grad():
        for parameter in learning:
            parameter.normal_(std=0.1)
    found = family.log_likelihood(family.network, *case(family), temperature=1.0)
    found.values.sum().backward()
    gradients = [parameter.grad for parameter in learning if parameter.grad is not None]
    assert len(gradients) > len(learning) // 2
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.abs().sum() > 0 for gradient in gradients)


@pytest.mark.usefixtures("on_any_device")
def test_quantised_predictions_stay_near(folders: Callable[[str], Path]) -> None:
    plain = load("flux", folders("flux"), dtype="bfloat16")
    cases = case(plain)
    with torch.no_grad():
        expected = plain.residual(plain.network, *cases)
        for method, most in (("int8", 0.05), ("nf4", 0.3)):
            pytest.importorskip(METHODS[method])
            family = load("flux", folders("flux"), quantization=method, dtype="bfloat16")
            found = family.residual(family.network, *cases)
            assert 0 < (found - expected).norm() / expected.norm() < most, method


def test_what_cannot_be_quantised_is_refused(
    folders: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("bitsandbytes")
    with pytest.raises(InputError, match=r"generator\.quantization = 'nf4' needs a GPU; .*int8"):
        load("flux", folders("flux"), quantization="nf4")
    monkeypatch.setattr("tgo.pipeline.generators.quantization.find_spec", lambda _: None)
    with pytest.raises(InputError, match="needs torchao; `pip install torchao`"):
        load("flux", folders("flux"), quantization="int8")


class Float32(TorchDispatchMode):
    """How many float32 tensors of the shapes of weights operators gave."""

    def __init__(self, shapes: set[torch.Size]) -> None:
        super().__init__()
        self.made, self._shapes = 0, shapes

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), options: Any = None
    ) -> Any:
        found = function(*arguments, **(options or {}))
        for each in found if isinstance(found, list | tuple) else [found]:
            exact = isinstance(each, torch.Tensor) and each.dtype == torch.float32
            self.made += exact and not each.is_meta and each.shape in self._shapes
        return found


def test_weights_are_read_in_their_type_and_never_in_float32(
    folders: Callable[[str], Path], tmp_path: Path
) -> None:
    stock = StableDiffusion3Pipeline.from_pretrained(folders("sd3"), torch_dtype=torch.float16)
    stock.save_pretrained(tmp_path)  # so that whatever is float32 was made
    network = load("sd3", tmp_path).network
    shapes = {value.shape for value in network.parameters() if value.ndim > 1}
    with Float32(shapes) as exact:
        load("sd3", tmp_path)
    assert exact.made > 50
    with Float32(shapes) as read:
        family = load("sd3", tmp_path, dtype="bfloat16")
        family.encode_prompts(PROMPTS)
    assert read.made == 0
    assert {value.dtype for value in family.network.parameters()} == {torch.bfloat16}


def test_parts_leave_the_device_between_uses(
    folders: Callable[[str], Path], loaded: Callable[[str], Loaded], monkeypatch: pytest.MonkeyPatch
) -> None:
    family = load("sdxl", folders("sdxl"), offload=True)
    moves: list[tuple[str, str]] = []
    move = torch.nn.Module.to

    def recorded(module: torch.nn.Module, device: object, *rest: object) -> torch.nn.Module:
        moves.append((type(module).__name__, str(device)))
        return move(module, device, *rest)  # type: ignore[call-overload]

    monkeypatch.setattr(torch.nn.Module, "to", recorded)
    images = family.decode(sample(family, PROMPTS, SEEDS))
    family.text_encoders.rest()
    assert moves.count(("AutoencoderKL", "cpu")) == 2  # moved to the device (here the CPU) and back
    assert {name for name, _ in moves} == {
        "AutoencoderKL",
        "CLIPTextModel",
        "CLIPTextModelWithProjection",
    }
    monkeypatch.undo()
    other = loaded("sdxl")
    assert torch.equal(images, other.decode(sample(other, PROMPTS, SEEDS)))
    assert family.describe() == other.describe()


def test_tiles_are_part_of_what_decides_an_image(folders: Callable[[str], Path]) -> None:
    family = load("sd15", folders("sd15"), vae_tiling=True)
    assert family.describe()["vae_tiling"] is True
    assert family.decode(sample(family, PROMPTS, SEEDS)).shape == (2, 3, 16, 16)


def test_masked_models_refuse_what_they_do_not_need(folders: Callable[[str], Path]) -> None:
    for setting, value in (("quantization", "nf4"), ("offload", True), ("vae_tiling", True)):
        with pytest.raises(InputError, match=rf"generator\.{setting}: amused models are small"):
            load("amused", folders("amused"), resolution=None, **{setting: value})


@pytest.mark.parametrize("kind", ["flux2-distilled", "flux2"])
def test_a_distilled_model_is_said_to_blur(
    kind: str, folders: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    settings = make_settings(folders(kind), family="flux2").generator
    with caplog.at_level(logging.WARNING):
        load_generator(settings.model_copy(update={"resolution": 16}))
    warned = "distilled to sample in a few steps" in caplog.text
    assert warned is (kind == "flux2-distilled")
