"""Settings that differ from params.yaml, as the benchmarks want them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tgo.pipeline.config.settings import Settings


def changed(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """Settings with dotted keys changed, checked again as a whole."""
    values = settings.model_dump()
    for key, value in changes.items():
        group, name = key.split(".")
        values[group][name] = value
    return Settings.model_validate(values)
