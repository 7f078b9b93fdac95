"""Layers of int8 weights: their gradient is that of torchao's, and no float copy is kept for it."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.trainer.miniature import Place, make_settings
from tests.trainer.test_train import make_learner
from tgo.pipeline.config.settings import Settings, validate
from tgo.pipeline.generators import load_generator
from tgo.trainer import lora
from tgo.trainer.frozen_linear import FrozenLinear, keep_quantized

pytest.importorskip("torchao")


def quantized(dtype: torch.dtype) -> nn.Module:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(96, 128), nn.SiLU(), nn.Linear(128, 64, bias=False))
    network = network.to(dtype).requires_grad_(False)
    quantize_(network, Int8WeightOnlyConfig(version=2))
    return network


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_outputs_are_the_same_and_gradients_but_for_rounding(
    dtype: torch.dtype, autocast: bool
) -> None:
    torchaos = quantized(dtype)
    ours = copy.deepcopy(torchaos)
    keep_quantized(ours)
    assert sum(isinstance(module, FrozenLinear) for module in ours.modules()) == 2
    first = torch.randn(4, 7, 96, dtype=torch.float32 if autocast else dtype)
    found = []
    for network in (torchaos, ours):
        inputs = first.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            output = network(inputs)
        output.float().square().sum().backward()
        assert inputs.grad is not None
        assert inputs.grad.dtype == inputs.dtype
        found.append((output, inputs.grad))
    (output, gradient), (our_output, our_gradient) = found
    assert torch.equal(our_output, output)
    exact = dtype == torch.float32 and not autocast
    away = (our_gradient - gradient).abs().max() / gradient.abs().max()
    assert away < (1e-6 if exact else 1e-2)


def test_plain_layers_stay_as_they_are() -> None:
    network = nn.Sequential(nn.Linear(4, 4))
    keep_quantized(network)
    assert type(network[0]) is nn.Linear


def _int8(model: Path, root: Path) -> Settings:
    adapters = {"rank": 2, "alpha": 2.0, "targets": None}
    values = make_settings(model, lora=adapters, batch_size=2).model_dump(mode="json")
    values["generator"]["quantization"] = "int8"
    return validate(values, origin="test")


def _kept(model: Path, place: Place) -> int:
    """Bytes that autograd keeps for the backward pass of a step."""
    learner, stream = make_learner(_int8(model, place.root), place)
    batch = next(stream.batches())
    kept = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.nbytes if type(tensor) is Tensor else 0
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        learner.terms(1, batch)
    weights = [m.weight for m in learner._networks.network.modules() if type(m) is FrozenLinear]
    assert bool(weights) == (lora.keep_quantized is keep_quantized)
    return kept


def test_a_step_keeps_no_copy_of_the_weights(
    model: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = _kept(model, place)
    monkeypatch.setattr(lora, "keep_quantized", lambda network: None)
    torchaos = _kept(model, place)
    settings = _int8(model, place.root)
    plain = load_generator(settings.generator.model_copy(update={"quantization": None}))
    linear = [m.weight for m in plain.network.modules() if type(m) is nn.Linear]
    assert torchaos - ours > 0.5 * sum(weight.nbytes for weight in linear)
