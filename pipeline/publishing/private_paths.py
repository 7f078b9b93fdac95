"""Paths of this machine taken out of what leaves it: a home folder names its owner."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

_ABSOLUTE = re.compile(
    r"""(?<![\w/:.\\])              # not inside a link or a relative path
        (?:~|/(?!/)|[A-Za-z]:[\\/]) # a home, a root, a drive
        [^\s"'`,;|<>()\[\]{}]*[\\/]
        (?P<name>[^\s"'`,;|<>()\[\]{}\\/]+)""",
    re.VERBOSE,
)


def clean_text(text: str) -> str:
    """A text in which every absolute path is its last part alone."""
    return _ABSOLUTE.sub(lambda found: found["name"], text)


def cleaned(value: Any) -> Any:
    """A JSON value with every text in it cleaned."""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, dict):
        return {key: cleaned(item) for key, item in value.items()}
    return [cleaned(item) for item in value] if isinstance(value, list) else value


def clean_config(path: Path) -> None:
    """Cut ``_name_or_path`` of a configuration to its last part where it is a local folder."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # a tokenizer's file that is no configuration
        return
    name = config.get("_name_or_path") if isinstance(config, dict) else None
    if isinstance(name, str) and clean_text(name) != name:
        config["_name_or_path"] = clean_text(name)
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
