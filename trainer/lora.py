"""Low-rank adapters (LoRA, arXiv:2106.09685) through peft.

The network that is trained is the reference with its adapters on; with them off it is the
reference itself, so there is no second copy of the weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tgo.pipeline.errors import InputError
from tgo.pipeline.generators import adapters
from tgo.pipeline.generators.adapters import Adapters
from tgo.pipeline.seeds import sample_seed
from tgo.trainer.frozen_linear import keep_quantized

if TYPE_CHECKING:
    from tgo.pipeline.config.train_settings import Lora
    from tgo.pipeline.generators.base import Family

NAME = "default"
"""The adapter's name in peft, which is part of its parameters' names."""
TARGETS = ("to_k", "to_q", "to_v", "to_out.0")
"""The projections of every attention of diffusers' networks: what a family gets that names none."""


def add(network: nn.Module, lora: Lora, family: Family, seed: int) -> None:
    """Freeze ``network`` and put trainable adapters into it, in place.

    They change nothing at first: B is zero. A is drawn from ``seed`` alone.

    Raises InputError when no module of the network has one of the names.
    """
    from peft import LoraConfig, inject_adapter_in_model

    targets = lora.targets or list(getattr(family, "lora_targets", TARGETS))
    names = [name for name, _ in network.named_modules()]
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            raise InputError(
                f"train.lora.targets: no module of {type(network).__name__} is called {target!r}; "
                "use the ends of module names, or null for the family's own"
            )
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=targets)  # type: ignore[arg-type]
    network.requires_grad_(False)
    keep_quantized(network)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(sample_seed(seed, "adapters", 0))
        inject_adapter_in_model(config, network, adapter_name=NAME)
    for layer in _layers(network):
        _activate(layer, trained=True)
    for parameter in network.parameters():
        if parameter.requires_grad:  # peft gives them the type of the weights
            parameter.data = parameter.data.float()


@contextmanager
def switched_off(network: nn.Module) -> Iterator[None]:
    """Inside, ``network`` computes what it did before training put adapters into it.

    Those that its model came with stay on.
    """
    layers = _layers(network)
    for layer in layers:
        _activate(layer, trained=False)
    try:
        yield
    finally:
        for layer in layers:
            _activate(layer, trained=True)


def take(network: nn.Module, weights: Mapping[str, Tensor]) -> Adapters:
    """The adapters of ``network`` with the given weights, apart from it; it stays as it is.

    B is multiplied by ``alpha / rank``, and alpha set to the rank: every reader then applies them
    at the strength they were trained at, those as well that know of no alpha.

    Args:
        network: Has the adapters.
        weights: Their values by parameter name.

    Returns:
        Names, values and configuration as they go into a file.
    """
    config = network.peft_config[NAME].to_dict()  # type: ignore[index,union-attr]
    scale = config["lora_alpha"] / config["r"]
    config["lora_alpha"] = config["r"]
    return Adapters(
        {
            name.replace(f".{NAME}.", "."): value.detach().cpu()
            * (scale if ".lora_B." in name else 1.0)
            for name, value in weights.items()
        },
        {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()},
    )


def _layers(network: nn.Module) -> list[nn.Module]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [module for module in network.modules() if isinstance(module, BaseTunerLayer)]


def _activate(layer: Any, *, trained: bool) -> None:
    """Have an adapted layer compute its model's own adapters, if any, and perhaps the trained."""
    if NAME not in layer.lora_A:
        return
    if adapters.NAME not in layer.lora_A:
        layer.enable_adapters(trained)
        return
    layer.set_adapter([adapters.NAME, *[NAME] * trained])
    for part in (layer.lora_A, layer.lora_B):
        part[adapters.NAME].requires_grad_(False)
