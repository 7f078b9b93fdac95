"""Prompt conditions on disk: once per prompt, one safetensors file beside each scored shard.

One tensor a name (`embeddings`, `pooled`, ...) and one more of the empty prompt
(`unconditional.embeddings`, ...).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from tgo.pipeline.errors import InputError
from tgo.pipeline.generators.base import Conditions
from tgo.pipeline.storage.atomic import replacing

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
    """Read embeddings; InputError naming the file when it is missing or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return tensors_of(file)
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path}: is missing or damaged ({error}); run `tgo score` again, it makes it anew"
        ) from None


def tensors_of(file: Any) -> Embeddings:
    """The tensors of an open safetensors file, memory-mapped as long as they are in use."""
    every = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    given = {name: value for name, value in every.items() if not name.startswith(UNCONDITIONAL)}
    return Embeddings(given, {name: every[f"{UNCONDITIONAL}{name}"] for name in given})


def is_intact(path: Path, sha256: str) -> bool:
    """Whether the file is the one whose checksum its shard recorded."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == sha256


def stored(conditions: Conditions) -> Conditions:
    """In the precision and place they are stored: on the CPU, float32 as float16."""
    halved = {torch.float32: torch.float16}
    return {
        name: value.to("cpu", halved.get(value.dtype, value.dtype))
        for name, value in conditions.items()
    }
