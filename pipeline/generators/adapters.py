"""Adapters (LoRA, arXiv:2106.09685) in a folder of their own, with the name of their base model.

    models/tuned/pytorch_lora_weights.safetensors   the adapters, as stock diffusers loads them
    models/tuned/base_model.json                    what they are for: path or hub id, checksum

Such a folder is a model wherever a model is named: the base is read and the adapters are added to
its weights, or, where those are quantised, computed beside them as they were in training.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from tgo.pipeline.generators.base_model import AGAIN, BaseModel, write_base
from tgo.pipeline.generators.components import reading
from tgo.pipeline.layout import LORA

PARTS = ("unet", "transformer")
"""What diffusers calls the network of a pipeline, and so the prefix of its adapters' names."""
NAME = "base"
"""What adapters that a model came with are called in peft; training calls its own otherwise."""


class Adapters(NamedTuple):
    """Adapters apart from a network."""

    weights: dict[str, Tensor]
    """On the CPU, by peft's name without the adapter's own; alpha / rank is multiplied into B."""
    config: dict[str, Any]
    """Rank, alpha (the same), targets: they travel in the file."""


def write(adapters: Adapters, part: str, base: BaseModel, folder: Path) -> None:
    """Write adapters and the name of their base into ``folder``; the bytes follow from these alone.

    Args:
        adapters: what is written.
        part: of the pipeline, the network that they are for: unet or transformer.
        base: the model that they are for.
        folder: is there, and holds neither file.
    """
    from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
    from safetensors.torch import save_file

    told = {f"{part}.{key}": value for key, value in adapters.config.items()}
    named = {f"{part}.{name}": value.contiguous() for name, value in adapters.weights.items()}
    # one metadata key only: the library writes several in random order
    metadata = {LORA_ADAPTER_METADATA_KEY: json.dumps(told, sort_keys=True)}
    save_file(named, folder / LORA, metadata)
    write_base(base, folder)


def read(folder: Path, part: str) -> Adapters:
    """The adapters that `write` left in ``folder``.

    Raises InputError: the file is missing or damaged.
    """
    from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
    from safetensors import safe_open

    with reading(folder / LORA, AGAIN), safe_open(folder / LORA, "pt") as file:
        told = json.loads(file.metadata()[LORA_ADAPTER_METADATA_KEY])
        return Adapters(
            {name.removeprefix(f"{part}."): file.get_tensor(name) for name in file.keys()},  # noqa: SIM118
            {key.removeprefix(f"{part}."): value for key, value in told.items()},
        )


def add_to(network: nn.Module, folder: Path, part: str, *, fuse: bool) -> None:
    """Give a network the adapters in ``folder``, in float32 whatever type its weights have.

    Args:
        network: of diffusers, without adapters.
        folder: of adapters.
        part: what the network is called in its pipeline.
        fuse: whether ``B A`` is added to the weights, which leaves a plain network; otherwise peft
            computes it beside them.

    Raises:
        InputError: the adapters are missing, damaged or of another network.
    """
    from peft import LoraConfig, inject_adapter_in_model

    found, model = read(folder, part), cast(Any, network)
    where = next(network.parameters()).device
    with reading(folder / LORA, AGAIN):
        config = LoraConfig(**found.config)
        # without numbers: peft would draw some, in the type of the weights
        inject_adapter_in_model(config, model, adapter_name=NAME, low_cpu_mem_usage=True)
        weights = {
            f"{name.removesuffix('.weight')}.{NAME}.weight": value.to(where)
            for name, value in found.weights.items()
        }
        wrong = network.load_state_dict(weights, strict=False, assign=True).unexpected_keys
        wrong += [name for name, value in network.named_parameters() if value.is_meta]
        if wrong:
            raise ValueError(f"does not fit the {part}: {wrong[0]}")
        if fuse:
            model.fuse_lora()
            model.unload_lora()
    network.requires_grad_(False)


def stacked(first: Adapters, second: Adapters) -> Adapters:
    """Adapters that add what both add: their ranks side by side, since all alphas are the ranks."""
    weights = dict(first.weights)
    for name, value in second.weights.items():
        earlier = weights.get(name)
        axis = 1 if ".lora_B." in name else 0
        weights[name] = value if earlier is None else torch.cat([earlier, value], axis)
    ranks = {
        name.removesuffix(".lora_A.weight"): len(value)
        for name, value in weights.items()
        if name.endswith(".lora_A.weight")
    }
    rank = max(ranks.values())
    pattern = {module: own for module, own in ranks.items() if own != rank}
    targets = {*first.config["target_modules"], *second.config["target_modules"]}
    return Adapters(
        weights,
        second.config
        | {"r": rank, "lora_alpha": rank, "target_modules": sorted(targets)}
        | {"rank_pattern": pattern, "alpha_pattern": pattern},
    )
