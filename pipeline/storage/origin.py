"""Whether a folder's shards were generated or imported: neither may make way for the other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from tgo.pipeline.config.label_settings import RATING
from tgo.pipeline.errors import DamagedError, InputError
from tgo.pipeline.storage import shards

Origin = Literal["generated", "imported"]
COUNT = "n_ratings"
"""How many ratings a row's mean is of."""


def of(folder: Path) -> Origin | None:
    """Where the first shard of a folder comes from that can be read; None if there is none."""
    for path in shards.present(folder):
        try:
            rewards = shards.read_metadata(path).get("tgo.rewards", {})
        except DamagedError:  # whoever writes the folder makes it again
            continue
        return "imported" if RATING in rewards else "generated"
    return None


def model_of(metadata: Mapping[str, Any]) -> str | None:
    """The checksum of the model that made a shard's images, from the shard's metadata."""
    images = metadata.get("tgo.fingerprint", {}).get("images", {})
    found: str | None = images.get("generator", {}).get("model_sha256")
    return found


def require(folder: Path, wanted: Origin) -> None:
    """InputError if the folder holds shards of the other origin."""
    present = of(folder)
    if present in (None, wanted):
        return
    if present == "imported":
        raise InputError(
            f"{folder}: holds imported ratings, which `tgo score` would replace; set label.reward "
            "to rating to train on them, or move the folder away"
        )
    raise InputError(
        f"{folder}: holds generated images, which `tgo import` would replace; move the folder away "
        "or remove it"
    )


def require_ratings(folder: Path) -> None:
    """InputError if the folder holds no imported shards."""
    if of(folder) != "imported":
        raise InputError(
            f"{folder}: holds no imported ratings, but label.reward is {RATING}; run `tgo import` "
            "first, or name a reward model"
        )
