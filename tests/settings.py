"""The project's own params.yaml with a test's changes, so that a new key changes no other test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tgo.pipeline.config import settings
from tgo.pipeline.config.settings import Settings

PARAMS = Path(__file__).parents[1] / "params.yaml"
NAMED = ("rewards", "prompts")  # their keys are names: such a group is replaced, not merged


def changed(changes: dict[str, Any]) -> Settings:
    """params.yaml in which the keys of `changes`, and of their groups, have other values."""
    values = settings.load(PARAMS).model_dump()
    for name, value in changes.items():
        merged = isinstance(value, dict) and name not in NAMED
        values[name] = {**values[name], **value} if merged else value
    return settings.validate(values, origin="test")
