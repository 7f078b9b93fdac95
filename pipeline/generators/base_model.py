"""The base model of a folder of adapters: `base_model.json` beside them. Loads no library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from tgo.pipeline import documents
from tgo.pipeline.errors import InputError
from tgo.pipeline.layout import BASE_MODEL

AGAIN = "run `tgo train` again"
"""What to do where a file in a folder of adapters is damaged."""


class BaseModel(NamedTuple):
    """The model that adapters are for."""

    source: str
    """Path of a folder, or a hub repository id, as in ``generator.model``."""
    sha256: str
    """Its checksum, as shards and figures know it."""
    pipeline: str
    """The diffusers class that loads it."""


def base_of(folder: Path) -> BaseModel | None:
    """The base model that a folder of adapters names; None for any other folder.

    Raises InputError: the file that names it is damaged.
    """
    path = folder / BASE_MODEL
    if not path.is_file():
        return None
    found = documents.read_json(path, AGAIN)
    try:
        return BaseModel(*(str(found[key]) for key in ("base_model", "sha256", "pipeline")))
    except (KeyError, TypeError):
        raise InputError(f"{path}: does not say base_model, sha256 and pipeline; {AGAIN}") from None


def adapted_model(source: str) -> str:
    """The model that adapters trained on ``source`` are for: it, or what its own are for."""
    base = base_of(Path(source))
    return source if base is None else base.source


def is_model(folder: Path) -> bool:
    """Whether a folder holds a model: a whole one, or adapters with the name of their base."""
    return (folder / "model_index.json").is_file() or base_of(folder) is not None


def write_base(base: BaseModel, folder: Path) -> None:
    """Write the name of a base model into a folder of adapters."""
    names = {"base_model": base.source, "sha256": base.sha256, "pipeline": base.pipeline}
    (folder / BASE_MODEL).write_text(json.dumps(names, indent=2) + "\n", encoding="utf-8")
