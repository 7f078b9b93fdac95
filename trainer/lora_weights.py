"""Adapters as the file that diffusers reads.

By a pipeline's `load_lora_weights` or, where a pipeline has none (aMUSEd, Meissonic), by its
network's `load_lora_adapter`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from tgo.pipeline.layout import LORA
from tgo.trainer.lora import NAME

PARTS = ("unet", "transformer")
"""What diffusers calls the network of a pipeline, and so the prefix of its adapters' names."""


class Adapters(NamedTuple):
    """Adapters taken out of a network."""

    weights: dict[str, Tensor]
    """On the CPU, by peft's name without the adapter's own."""
    config: dict[str, Any]
    """Rank, alpha, targets: they travel in the file, so adapters load at the scale they had."""


def take(network: nn.Module, *, adapter: str = NAME) -> Adapters:
    """The adapters that ``network`` has now; it stays as it is.

    B is multiplied by ``alpha / rank``, and alpha set to the rank: every reader then applies them
    at the strength they were trained at, those as well that know of no alpha.
    """
    from peft import get_peft_model_state_dict

    config = network.peft_config[adapter].to_dict()  # type: ignore[index,union-attr]
    state = get_peft_model_state_dict(network, adapter_name=adapter)
    scale = config["lora_alpha"] / config["r"]
    config["lora_alpha"] = config["r"]
    return Adapters(
        {
            name: tensor.detach().cpu() * (scale if ".lora_B." in name else 1.0)
            for name, tensor in state.items()
        },
        {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()},
    )


def write(adapters: Adapters, folder: Path) -> Path:
    """Write adapters into the model folder ``folder``, whose pipeline they are for.

    The bytes follow from the adapters alone.
    """
    from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
    from safetensors.torch import save_file

    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    part = next(name for name in PARTS if name in index)
    told = {f"{part}.{key}": value for key, value in adapters.config.items()}
    named = {f"{part}.{name}": value.contiguous() for name, value in adapters.weights.items()}
    # one metadata key only: the library writes several in random order
    metadata = {LORA_ADAPTER_METADATA_KEY: json.dumps(told, sort_keys=True)}
    save_file(named, folder / LORA, metadata)
    return folder / LORA
