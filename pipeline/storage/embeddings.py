"""Prompt conditions on disk: once per prompt, one safetensors file beside each scored shard.

One tensor a name (`embeddings`, `pooled`, ...) and one more of the empty prompt
(`unconditional.embeddings`, ...).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from tgo.pipeline import read_errors
from tgo.pipeline.storage.atomic import replacing
from tgo.rewards.checksum import file_sha256

if TYPE_CHECKING:
    from tgo.pipeline.generators.base import Conditions

UNCONDITIONAL = "unconditional."


class Embeddings(NamedTuple):
    """Conditions of a shard's prompts, as stored: images are sampled from these very values."""

    prompts: Conditions  # [N, ...]
    unconditional: Conditions  # [...], of the empty prompt


def path_for(folder: Path, shard: Path) -> Path:
    """The embeddings file that belongs to a scored shard."""
    return folder / f"{shard.stem}.safetensors"


def write(path: Path, embeddings: Embeddings, prompt_ids: Sequence[str]) -> str:
    """Write embeddings with their prompt ids; returns the file's sha256."""
    empty = {f"{UNCONDITIONAL}{name}": value for name, value in embeddings.unconditional.items()}
    tensors = {name: value.contiguous() for name, value in (embeddings.prompts | empty).items()}
    # one metadata key only: the library writes several in random order
    data = save(tensors, metadata={"prompt_ids": json.dumps(list(prompt_ids))})
    with replacing(path) as file:
        file.write(data)
    return hashlib.sha256(data).hexdigest()


def read(path: Path) -> Embeddings:
    """Read the embeddings of a shard.

    Args:
        path: the .safetensors file.

    Returns:
        The conditions of the shard's prompts and of the empty prompt.

    Raises:
        InputError: naming the file; a DamagedError where its content is at fault.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return tensors_of(file)
    except (SafetensorError, OSError, KeyError) as error:
        raise read_errors.explain(path, error, "run `tgo score` again, it makes it anew") from None


def tensors_of(file: Any) -> Embeddings:
    """The tensors of an open safetensors file, memory-mapped as long as they are in use."""
    every = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    prompts = {name: value for name, value in every.items() if not name.startswith(UNCONDITIONAL)}
    return Embeddings(prompts, {name: every[f"{UNCONDITIONAL}{name}"] for name in prompts})


def is_intact(path: Path, sha256: str) -> bool:
    """Whether the file is the one whose checksum its shard recorded.

    Args:
        path: the embeddings file.
        sha256: the recorded checksum.

    Returns:
        False also where there is no file.

    Raises:
        InputError: it is there and cannot be read just now.
    """
    try:
        return file_sha256(path) == sha256
    except FileNotFoundError:
        return False
    except OSError as error:
        raise read_errors.explain(path, error, "run `tgo score` again") from None


def stored(conditions: Conditions) -> Conditions:
    """Conditions as they are stored: on the CPU, float32 rounded to float16."""
    halved = {torch.float32: torch.float16}
    return {
        name: value.to("cpu", halved.get(value.dtype, value.dtype))
        for name, value in conditions.items()
    }
