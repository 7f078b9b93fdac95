"""Low-rank adapters (LoRA, arXiv:2106.09685) through peft.

The network that is trained is the reference with its adapters on; with them off it is the
reference itself, so there is no second copy of the weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tgo.pipeline.errors import InputError
from tgo.pipeline.seeds import sample_seed

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
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(sample_seed(seed, "adapters", 0))
        inject_adapter_in_model(config, network, adapter_name=NAME)


@contextmanager
def switched_off(network: nn.Module) -> Iterator[None]:
    """Inside, ``network`` computes what it did before it had adapters."""
    layers = _layers(network)
    for layer in layers:
        layer.enable_adapters(False)  # type: ignore[operator]
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)  # type: ignore[operator]


@torch.no_grad()
def load(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give the adapters of ``network`` these weights, by parameter name."""
    parameters = dict(network.named_parameters())
    for name, value in weights.items():
        parameters[name].copy_(value)


def merge(network: nn.Module) -> None:
    """Make every adapted layer a plain one with ``W + (alpha / rank) B A``, in place."""
    for layer in _layers(network):
        layer.merge()  # type: ignore[operator]
    adapted = {id(layer) for layer in _layers(network)}
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if id(child) in adapted:
                setattr(parent, name, child.get_base_layer())  # type: ignore[operator]


def _layers(network: nn.Module) -> list[nn.Module]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [module for module in network.modules() if isinstance(module, BaseTunerLayer)]
