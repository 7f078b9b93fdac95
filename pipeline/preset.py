"""`tgo preset NAME`: fill params.yaml from presets/NAME.yaml, keeping its comments."""

from __future__ import annotations

import difflib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline import settings
from pipeline.atomic import replacing
from pipeline.errors import InputError


def apply(name: str, presets: Path, params: Path) -> list[str]:
    """Write the preset's values over those of `params`; returns the changes as `key: old -> new`.

    The result is checked like any settings before it is written; InputError names the preset
    or key.
    """
    path = presets / f"{name}.yaml"
    if not path.is_file():
        known = sorted(found.stem for found in presets.glob("*.yaml"))
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known) or 'none'}"
        raise InputError(f"{path}: no such preset; {hint}")
    settings.load(params)  # refuse to build on settings that are wrong already
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096  # never wrap a line
    values = yaml.load(params.read_text(encoding="utf-8"))
    changes: list[str] = []
    _fill(values, _read(path), "", changes)
    settings.validate(values, origin=str(path))
    text = io.StringIO()
    yaml.dump(values, text)
    with replacing(params) as file:
        file.write(text.getvalue().encode())
    return changes


def _read(path: Path) -> Mapping[str, Any]:
    try:
        found = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(found, Mapping):
        raise InputError(f"{path}: holds no settings; write `key: value` lines into it")
    return found


def _fill(into: Any, preset: Mapping[str, Any], prefix: str, changes: list[str]) -> None:
    for key, value in preset.items():
        old = into.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            _fill(old, value, f"{prefix}{key}.", changes)
        elif old != value:
            into[key] = value
            changes.append(f"{prefix}{key}: {old} -> {value}")
