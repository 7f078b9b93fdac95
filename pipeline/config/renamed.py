"""Settings that have another name now, or are gone: refused with what takes their place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tgo.pipeline.errors import InputError

RENAMED = {
    "train.updates": "train.steps",
    "train.gradient_clip": "train.max_grad_norm",
    "train.accumulate": "train.gradient_accumulation_steps",
    "train.timesteps.min_snr": "train.timesteps.snr_gamma",
    "train.condition_dropout": "train.prompt_dropout",
    "train.collapse.right_side": "train.collapse.accuracy",
}
"""Dotted old key -> dotted new key; meaning and unit of the value stay."""
REMOVED: dict[str, str] = {
    "train.noise": "fresh noise is the only kind left (noise tracked to the image helped nowhere)",
}
"""Dotted key -> why it is gone, or what to do instead."""


def refuse_old_keys(values: Mapping[str, Any], origin: str) -> None:
    """InputError that names the new key of the first old one in ``values``.

    Args:
        values: Settings as read from the file, groups as mappings.
        origin: Where they come from, for the message.
    """
    for old, new in RENAMED.items():
        if _holds(values, old):
            raise InputError(f"{origin}: {old}: is now {new}; rename the key, its value stays")
    for old, why in REMOVED.items():
        if _holds(values, old):
            raise InputError(f"{origin}: {old}: is gone; {why}")


def _holds(values: Any, key: str) -> bool:
    for part in key.split("."):
        if not isinstance(values, Mapping) or part not in values:
            return False
        values = values[part]
    return True
