"""What is wrong with a setting in one line: the key, its value, and what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, get_args

from tgo.pipeline.config.fields import Group


def one_line(error: Any, settings: type[Group]) -> str:
    """What is wrong with which key, and what would be right.

    Args:
        error: one of a pydantic ``ValidationError.errors()``.
        settings: the group that was validated.

    Returns:
        The line, without the file.
    """
    if error["type"] == "value_error":  # from our own validators, which name the key
        return str(error["ctx"]["error"])
    keys = [str(key) for key in error["loc"] if key != "[key]"]
    key = ".".join(keys)
    if error["type"] == "extra_forbidden":
        known = list(_group(keys[:-1], settings).model_fields)
        return f"{key}: unknown key; {did_you_mean(keys, known)}"
    wanted = _description(keys, settings)
    if "[key]" in error["loc"]:
        return f"{key}: not usable as a name; {keys[0]}.{keys[1]} must be {wanted}"
    if error["type"] == "missing":
        return f"{key}: missing; add {wanted}"
    value = repr(error["input"])
    return f"{key} = {value if len(value) < 100 else value[:97] + '...'} must be {wanted}"


def did_you_mean(keys: Sequence[str], known: Sequence[str]) -> str:
    """The key that may have been meant, or all that there are."""
    close = difflib.get_close_matches(keys[-1], known, n=1)
    if close:
        return f"did you mean {'.'.join([*keys[:-1], close[0]])}?"
    return f"remove it, or use one of {', '.join(known)}"


def _group(keys: Sequence[str], settings: type[Group]) -> type[Group]:
    group: Any = settings
    for key in keys:
        group = _entry_type(group) or _present(group.model_fields[key].annotation)
    return group


def _description(keys: Sequence[str], settings: type[Group]) -> str:
    """The description of the setting at `keys`, or of the closest setting around it."""
    group: Any = settings
    found = "a group of settings"
    for key in keys:
        if entry := _entry_type(group):
            group, found = entry, f"a source, or a group of {', '.join(entry.model_fields)}"
            continue
        fields = getattr(group, "model_fields", {})
        if key not in fields:
            break
        found, group = fields[key].description or found, _present(fields[key].annotation)
    return found


def _present(kind: Any) -> Any:
    """What an optional type holds where it is not null; any other type itself."""
    kinds = [each for each in get_args(kind) if each is not type(None)]
    return kinds[0] if len(kinds) == 1 and len(get_args(kind)) == 2 else kind


def _entry_type(kind: Any) -> type[Group] | None:
    """The groups that a mapping such as `rewards` holds; None for anything else."""
    held = get_args(kind)[1:]
    return held[0] if held and isinstance(held[0], type) and issubclass(held[0], Group) else None
