"""Adapters as the programs read them in which people use them: diffusers, ComfyUI, kohya's tools.

Whatever the reader, ``B`` is stored times ``alpha / rank``, so that the strength is right also
where a reader leaves alpha out or takes the rank for it. Numbers are float16.

==========  =========================================  ======================================
format      of a U-Net (diffusion, sdxl)               of a transformer (all others)
==========  =========================================  ======================================
diffusers   ``unet.MODULE.lora_A.weight``              ``transformer.MODULE.lora_A.weight``
comfyui     ``lora_unet_MODULE.lora_down.weight``      as diffusers; of Wan by authors' names:
                                                       ``diffusion_model.MODULE.lora_A.weight``
kohya       as comfyui                                 by authors' names:
                                                       ``lora_unet_MODULE.lora_down.weight``
==========  =========================================  ======================================

Checked against ComfyUI's ``comfy/lora.py`` (``model_lora_keys_unet``), sd-scripts (``lora.py``,
``lora_sd3.py``, ``lora_flux.py``) and musubi-tuner (``lora_flux_2.py``, ``lora_qwen_image.py``,
``lora_zimage.py``, ``lora_wan.py``). Authors' names and fused modules: lora_names.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from tgo.pipeline import layout
from tgo.pipeline.errors import InputError
from tgo.pipeline.publishing.lora_names import Place, authors_place
from tgo.pipeline.storage.atomic import replacing

Format = Literal["diffusers", "comfyui", "kohya"]
KOHYA = {
    "diffusion": "networks.lora",
    "sdxl": "networks.lora",
    "sd3": "networks.lora_sd3",
    "flux": "networks.lora_flux",
    "chroma": "networks.lora_flux",
    "flux2": "networks.lora_flux_2",
    "qwenimage": "networks.lora_qwen_image",
    "zimage": "networks.lora_zimage",
    "wan": "networks.lora_wan",
}
"""Families that kohya's tools know, with the module that reads them; ComfyUI knows the same."""
_U_NETS = ("diffusion", "sdxl")
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"


def check(format: Format, family: str) -> None:
    """InputError where a program does not read adapters of a family."""
    if format != "diffusers" and family not in KOHYA:
        raise InputError(
            f"--format {format}: reads adapters of {', '.join(KOHYA)}, not of {family}; use "
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
        InputError: the program does not read this family or one of its adapted modules, or the
            file is damaged.
    """
    from safetensors.torch import save

    check(format, family)
    weights, metadata = _folded(source)
    if format == "kohya" or (format == "comfyui" and family in _U_NETS):
        weights = _kohya(_authors(weights, format, family))
        metadata = {"ss_network_module": KOHYA[family]}
    elif format == "comfyui" and family == "wan":
        weights, metadata = _authors(weights, format, family), {}
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


def _authors(weights: dict[str, Any], format: Format, family: str) -> dict[str, Any]:
    """``transformer.MODULE.lora_A.weight`` as ``diffusion_model.AUTHORS' MODULE.lora_A.weight``.

    Modules that lie in one of theirs share it: their ``A`` stand on top of each other, and each
    ``B`` has its rows and columns of a matrix of zeros.
    """
    import torch

    found: dict[str, list[tuple[Place, Any, Any]]] = {}
    for name, down in weights.items():
        if not name.endswith(_DOWN):
            continue
        module = name.removesuffix(_DOWN).partition(".")[2]
        place = authors_place(family, module)
        if place is None:
            raise InputError(
                f"--format {format}: has no adapters for {module}; leave it out of "
                "train.lora.targets, or use --format diffusers"
            )
        up = weights[name.replace(_DOWN, _UP)]
        found.setdefault(f"diffusion_model.{place.module}", []).append((place, down, up))
    fused = {}
    for module, parts in found.items():
        fused[f"{module}{_DOWN}"] = torch.cat([down for _, down, _ in parts])
        fused[f"{module}{_UP}"] = _stacked([(place, up) for place, _, up in parts])
    return fused


def _stacked(parts: list[tuple[Place, Any]]) -> Any:
    """The ``B`` of a fused module, from those of its parts."""
    (place, up), *_ = parts
    if place.total == 1:
        return up
    rows = place.unit(len(up)) * place.total
    total = up.new_zeros(rows, sum(up.shape[1] for _, up in parts))
    column = 0
    for place, up in parts:
        start = place.start * place.unit(len(up))
        total[start : start + len(up), column : column + up.shape[1]] = up
        column += up.shape[1]
    return total


def _kohya(weights: dict[str, Any]) -> dict[str, Any]:
    """``diffusion_model.a.b.lora_A.weight`` as ``lora_unet_a_b.lora_down.weight``, with alpha."""
    import torch

    named = {}
    for name, value in weights.items():
        module, _, end = name.removeprefix("diffusion_model.").rpartition(".lora_")
        stem = f"lora_unet_{module.replace('.', '_')}"
        named[f"{stem}.lora_{'down' if end.startswith('A') else 'up'}.weight"] = value
        if end.startswith("A"):
            named[f"{stem}.alpha"] = torch.tensor(float(len(value)))
    return named


def file_name(format: Format, model: str) -> str:
    """What the file is called: diffusers looks for one name, people sort the others by theirs."""
    return layout.LORA if format == "diffusers" else f"{model}.safetensors"
