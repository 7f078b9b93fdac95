"""The state of the process that computed bytes depend on: device, threads, determinism."""

from __future__ import annotations

import os
import shutil

from tgo.pipeline.config.settings import Settings
from tgo.pipeline.errors import InputError


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


def require_compiler(key: str, shapes: int = 1) -> None:
    """Let torch.compile make code for so many shapes of input.

    Args:
        key: the setting that wants it.
        shapes: of latents; of more than a few torch would give up otherwise.

    Raises:
        InputError: there is no compiler.
    """
    import torch

    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise InputError(
            f"params.yaml: {key} = true, but torch.compile finds no C++ compiler ({compiler}); "
            "install g++, name another one in CXX, or set it to false"
        )
    limit = torch._dynamo.config.recompile_limit
    torch._dynamo.config.recompile_limit = max(limit, 8 * shapes)  # its own for one shape


def _quiet_libraries() -> None:
    """One progress bar a stage: ours. Warnings and errors of the libraries stay."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
