"""The project's own params.yaml with a test's changes, so that a new key changes no other test."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

from tgo.pipeline.config import settings
from tgo.pipeline.config.settings import Settings

PARAMS = Path(__file__).parents[1] / "params.yaml"
PLAIN: dict[str, dict[str, Any]] = {
    "label": {"scope": "global", "shrinkage": None},
    "train": {
        "draws": 1,
        "timesteps": {"draw": "family", "mean": 0.0, "std": 1.0, "snr_gamma": None},
        "steps": 300,
    },
}
"""The method as published, from which tests start: what is shipped may change."""
NAMED = ("rewards", "prompts")  # their keys are names: such a group is replaced, not merged


def changed(changes: dict[str, Any]) -> Settings:
    """params.yaml in which the keys of `changes`, and of their groups, have other values."""
    values = settings.load(PARAMS).model_dump()
    for name, value in PLAIN.items():
        values[name] |= value
    merge(values, changes)
    return settings.validate(values, origin="test")


def merge(values: MutableMapping[str, Any], changes: Mapping[str, Any]) -> None:
    """Give keys of `values`, and of their groups, the values of `changes`, in place."""
    for name, value in changes.items():
        if isinstance(value, Mapping) and name not in NAMED:
            values[name].update(value)
        else:
            values[name] = value
