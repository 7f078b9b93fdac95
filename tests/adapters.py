"""Random adapters of a model, in a folder as training writes it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tgo.pipeline.generators.adapters import Adapters
from tgo.pipeline.generators.base import Family
from tgo.trainer import lora

TARGETS = ("to_q", "to_k", "to_v", "to_out.0")


def put_into(
    network: Any,
    rank: int = 4,
    alpha: float = 12.0,
    targets: Sequence[str] = TARGETS,
    std: float = 0.125,
) -> None:
    """Random adapters in a network, as peft puts them in; training's are zero at first."""
    from peft import LoraConfig, inject_adapter_in_model

    # peft takes any number, and so does `train.lora.alpha`
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets))  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        inject_adapter_in_model(config, network, adapter_name=lora.NAME)
        for value in weights_of(network).values():
            value.normal_(0, std)


def weights_of(network: Any) -> dict[str, torch.Tensor]:
    """The adapters' parameters by name."""
    return {name: value for name, value in network.named_parameters() if ".lora_" in name}


def taken(network: Any) -> Adapters:
    """The adapters that a network has now."""
    return lora.take(network, weights_of(network))


def write(family: Family, folder: Path, **options: Any) -> Path:
    """A folder of random adapters for a family's model; its network has them afterwards."""
    put_into(family.network, **options)
    family.save_adapters(taken(family.network), folder)
    return folder
