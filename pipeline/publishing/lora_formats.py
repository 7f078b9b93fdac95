"""Adapters as the programs read them in which people use them: diffusers, ComfyUI, kohya's tools.

Whatever the reader, ``B`` is stored times ``alpha / rank``, so that the strength is right also
where a reader leaves alpha out or takes the rank for it. Numbers are float16.

==========  ====================================================  ================================
format      of a U-Net (diffusion, sdxl)                          of a transformer (sd3, flux)
==========  ====================================================  ================================
diffusers   ``unet.MODULE.lora_A.weight``                         ``transformer.MODULE.lora_A...``
comfyui     ``lora_unet_MODULE.lora_down.weight``, ``.alpha``     as diffusers, with ``.alpha``
kohya       as comfyui                                            none
==========  ====================================================  ================================

ComfyUI's names are those of its ``comfy/lora.py`` (``model_lora_keys_unet``), which takes modules
by their diffusers names.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from tgo.pipeline import layout
from tgo.pipeline.errors import InputError
from tgo.pipeline.storage.atomic import replacing

Format = Literal["diffusers", "comfyui", "kohya"]
READABLE: dict[Format, tuple[str, ...]] = {
    "diffusers": (),  # whatever it trains
    "comfyui": ("diffusion", "sdxl", "sd3", "flux"),
    "kohya": ("diffusion", "sdxl"),
}
"""Families whose adapters a program knows; of U-Nets the first two."""
_U_NETS = ("diffusion", "sdxl")


def check(format: Format, family: str) -> None:
    """InputError where a program does not read adapters of a family."""
    known = READABLE[format]
    if known and family not in known:
        raise InputError(
            f"--format {format}: reads adapters of {', '.join(known)}, not of {family}; use "
            "--format diffusers"
        )


def write(source: Path, target: Path, format: Format, family: str) -> None:
    """Write the adapters of a training run, a file of diffusers, in another program's format.

    Args:
        source: the adapters' .safetensors, as training writes it.
        target: the file to write; one that is there is replaced.
        format: the program that will read it.
        family: the generator's, such as sdxl.

    Raises:
        InputError: the program does not read this family, or the file is damaged.
    """
    from safetensors.torch import save

    check(format, family)
    weights, metadata = _folded(source)
    if format != "diffusers":
        weights = _kohya(weights) if family in _U_NETS else _with_alpha(weights)
        metadata = {"ss_network_module": "networks.lora"}
    with replacing(target) as file:
        file.write(save(weights, metadata))


def _folded(source: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The weights in float16 with their scale in ``B``, and metadata that says alpha = rank."""
    import torch
    from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(source, "pt") as file:
            config = json.loads(file.metadata()[LORA_ADAPTER_METADATA_KEY])
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        part = next(iter(config)).split(".")[0]
        rank, alpha = config[f"{part}.r"], config[f"{part}.lora_alpha"]
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, StopIteration) as error:
        raise InputError(
            f"{source}: is damaged, or no adapters of `tgo train` ({error}); run `tgo train` again"
        ) from None
    scale = alpha / rank
    folded = {
        name: (value * (scale if ".lora_B." in name else 1.0)).to(torch.float16).contiguous()
        for name, value in weights.items()
    }
    config |= {f"{part}.lora_alpha": rank}
    return folded, {LORA_ADAPTER_METADATA_KEY: json.dumps(config, sort_keys=True)}


def _kohya(weights: dict[str, Any]) -> dict[str, Any]:
    """``unet.a.b.lora_A.weight`` as ``lora_unet_a_b.lora_down.weight``, with its alpha."""
    import torch

    named = {}
    for name, value in weights.items():
        module, _, end = name.removeprefix("unet.").rpartition(".lora_")
        stem = f"lora_unet_{module.replace('.', '_')}"
        named[f"{stem}.lora_{'down' if end.startswith('A') else 'up'}.weight"] = value
        if end.startswith("A"):
            named[f"{stem}.alpha"] = torch.tensor(float(len(value)))
    return named


def _with_alpha(weights: dict[str, Any]) -> dict[str, Any]:
    """Diffusers' names with an alpha a module."""
    import torch

    alphas = {
        f"{name.rpartition('.lora_A.')[0]}.alpha": torch.tensor(float(len(value)))
        for name, value in weights.items()
        if ".lora_A." in name
    }
    return weights | alphas


def file_name(format: Format, model: str) -> str:
    """What the file is called: diffusers looks for one name, people sort the others by theirs."""
    return layout.LORA if format == "diffusers" else f"{model}.safetensors"
