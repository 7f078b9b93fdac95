"""The columns of scored and labelled shards, which no reward model or kept column may be called."""

from __future__ import annotations

import re
from collections.abc import Collection

from tgo.pipeline.errors import InputError

SCORED = (
    "id",
    "prompt",
    "prompt_id",
    "domain",
    "replicate",
    "seed",
    "status",
    "error",
    "image",
    "latents",
)
"""A scored shard's columns before those of the reward models."""
RATED = ("rating", "n_ratings", "rating_error")
"""What imported feedback has in place of reward models."""
LABELLED = ("score", "threshold", "label", "weight", "target")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


def why_not(name: str) -> str | None:
    """Why a new column cannot have a name; None if it can."""
    if name.casefold() in (*SCORED, *RATED, *LABELLED):
        return "is the name of a column that shards have already; choose another"
    if not _NAME.fullmatch(name):
        return (
            "is no usable name; choose one of letters, digits, _ . and - that begins with a letter"
        )
    return None


def check_new_columns(origin: str, names: Collection[str]) -> None:
    """Check names of columns that are added to shards.

    Args:
        origin: where the names come from, such as an option; begins the line of an error.
        names: the columns; two that differ in capitals alone are the same.

    Raises:
        InputError: naming `origin` and the first name that cannot be used.
    """
    folded = [name.casefold() for name in names]
    for name in names:
        reason = why_not(name)
        if reason is None and folded.count(name.casefold()) > 1:
            reason = "is there twice (capitals do not count); rename one of them"
        if reason:
            raise InputError(f"{origin} {name}: {reason}")
