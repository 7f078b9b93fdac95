"""The state of the process that computed bytes depend on: device, threads, determinism."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from tgo.pipeline.config.settings import Settings
from tgo.pipeline.errors import InputError

if TYPE_CHECKING:
    from tgo.pipeline.generators.base import Family
    from tgo.rewards.panel import Panel


def prepare(settings: Settings) -> str:
    """Pin threads, ask for deterministic kernels, quiet the libraries; returns the device.

    Call it before any model is loaded. Raises InputError if a GPU is asked for and absent.
    """
    import torch

    if settings.device == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "params.yaml: device = 'cuda', but torch finds no GPU; set device to auto or cpu"
        )
    device = settings.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":  # one of several processes on a machine takes the GPU of its number
        local = int(os.environ.get("LOCAL_RANK", "0"))
        torch.cuda.set_device(local % torch.cuda.device_count())
    torch.set_num_threads(settings.threads)
    ask_for_determinism()
    _quiet_libraries()
    return device


def ask_for_determinism() -> None:
    """The same kernels for the same input, from now on in this process."""
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic matrix products
    torch.use_deterministic_algorithms(True, warn_only=True)
    # a debugging aid that costs time
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def require_compiler(key: str) -> None:
    """InputError, naming the setting that wants it, unless torch.compile can generate code."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise InputError(
            f"params.yaml: {key} = true, but torch.compile finds no C++ compiler ({compiler}); "
            "install g++, name another one in CXX, or set it to false"
        )


def load_family(settings: Settings, device: str, model: Path | None = None) -> Family:
    """The generator of the settings, or another `model` of its family, compiled if they say so."""
    from tgo.pipeline.generators import load_generator

    family = load_generator(settings.generator, model, device=device)
    if settings.generator.compile:
        require_compiler("generator.compile")
        family.network.compile(dynamic=False)
    return family


def load_panel(settings: Settings, device: str) -> Panel:
    """The reward models of the settings on a device, compiled if the settings say so."""
    import torch
    from tgo.rewards.panel import Panel

    entries = {name: entry.model_dump() for name, entry in settings.rewards.items()}
    dtype = getattr(torch, settings.generator.dtype)
    panel = Panel.load(entries, device=device, dtype=dtype)
    if settings.generator.offload:
        panel.offload()
    if settings.score.compile:
        require_compiler("score.compile")
        panel.compile(settings.score.batch_size)
    return panel


def _quiet_libraries() -> None:
    """One progress bar a stage: ours. Warnings and errors of the libraries stay."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
