"""Weights of 8 or 4 bits, made while they are read from disk by diffusers and transformers."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from tgo.pipeline.errors import InputError

PACKAGES = {"int8": "torchao", "nf4": "bitsandbytes"}
"""`generator.quantization` to the package that computes it: 8-bit weights with a scale a row; 4-bit
NormalFloat, as in QLoRA (Dettmers et al. 2023)."""

NEEDS_GPU = ("nf4",)
"""Methods that diffusers offers on a GPU alone."""


def options(
    method: str | None, library: str, dtype: torch.dtype, device: torch.device
) -> dict[str, Any]:
    """What `from_pretrained` is told, so that weights are quantised while they are read.

    Args:
        method: one of `PACKAGES`, or None for none.
        library: "diffusers" or "transformers", whose class is loaded.
        dtype: what the network computes in.
        device: where it will be.

    Returns:
        Keyword arguments; none without a method.

    Raises:
        InputError: the package is not installed, or the device cannot do it.
    """
    if method is None:
        return {}
    package = PACKAGES[method]
    if find_spec(package) is None:
        raise InputError(
            f"generator.quantization = {method!r} needs {package}; `pip install {package}`, or set "
            "it to null"
        )
    import diffusers
    import transformers

    module = {"diffusers": diffusers, "transformers": transformers}[library]
    if method in NEEDS_GPU and device.type == "cpu":
        raise InputError(
            f"generator.quantization = {method!r} needs a GPU; set it to int8, which a CPU "
            "computes, or to null"
        )
    if method == "nf4":
        config = module.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
        )
        return {"quantization_config": config, "device_map": {"": device}}
    from torchao.quantization import Int8WeightOnlyConfig

    config = module.TorchAoConfig(Int8WeightOnlyConfig(version=2))
    return {"quantization_config": config, "device_map": {"": device}}


def is_quantized(network: nn.Module) -> bool:
    """Whether a network's weights are quantised, by us or in its files."""
    return getattr(network, "hf_quantizer", None) is not None


def place(network: nn.Module, device: torch.device) -> nn.Module:
    """The network on `device`; quantised weights were placed there when they were read."""
    return network if is_quantized(network) else network.to(device)


def give_back() -> None:
    """Give the system the memory of copies in full precision, which Linux' allocator would keep.

    After reading SDXL's network these are 3.5 GB.
    """
    with suppress(OSError, AttributeError):  # another system
        ctypes.CDLL("libc.so.6").malloc_trim(0)
