"""Prompt embeddings on disk: once per prompt, one safetensors file beside each scored shard."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pipeline.atomic import replacing
from pipeline.errors import InputError


class Embeddings(NamedTuple):
    """Embeddings of a shard's prompts, as stored: images are sampled from these very values."""

    prompts: Tensor  # float16 [N, L, D]
    unconditional: Tensor  # float16 [L, D], of the empty prompt


def path_for(folder: Path, shard: Path) -> Path:
    """The embeddings file that belongs to a scored shard."""
    return folder / f"{shard.stem}.safetensors"


def write(path: Path, embeddings: Embeddings, prompt_ids: Sequence[str]) -> str:
    """Write embeddings with their prompt ids; returns the file's sha256."""
    tensors = {
        "embeddings": embeddings.prompts.contiguous(),
        "unconditional": embeddings.unconditional.contiguous(),
    }
    # one metadata key only: the library writes several in random order
    data = save(tensors, metadata={"prompt_ids": json.dumps(list(prompt_ids))})
    with replacing(path) as file:
        file.write(data)
    return hashlib.sha256(data).hexdigest()


def read(path: Path) -> Embeddings:
    """Read embeddings; InputError naming the file when it is missing or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return Embeddings(file.get_tensor("embeddings"), file.get_tensor("unconditional"))
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path}: is missing or damaged ({error}); run `tgo score` again, it makes it anew"
        ) from None


def is_intact(path: Path, sha256: str) -> bool:
    """Whether the file is the one whose checksum its shard recorded."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == sha256


def stored(embeddings: Tensor) -> Tensor:
    """In the precision and place they are stored: float16 on the CPU."""
    return embeddings.to("cpu", torch.float16)
