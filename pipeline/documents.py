"""Small files of settings and records: the one place where JSON and YAML become values.

Whatever is wrong with such a file (missing, a folder or a pipe, too large, no text, damaged,
nested beyond all measure) is one `InputError` that names it and says what to do.
"""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

from tgo.pipeline.errors import InputError

MAX_BYTES = 64 << 20
"""Larger files are not read: records of the largest runs have a few MB."""
MAX_DEPTH = 64
"""Nesting beyond which a document is refused: YAML parsers recurse."""


def read_json(path: Path, remedy: str) -> Any:
    """The value of a JSON file.

    Args:
        path: the file.
        remedy: ends the line of an error: "run `tgo label` again".

    Returns:
        Whatever the file holds: a mapping, a list or a plain value.

    Raises:
        InputError: the file cannot be read, or is no JSON.
    """
    return parse_json(read_text(path, remedy), path, remedy)


def parse_json(text: str, path: Path, remedy: str) -> Any:
    """The value of a JSON text that stands in the file `path`; InputError as `read_json`."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is damaged ({_short(error)}); {remedy}") from None


def read_yaml(path: Path, remedy: str) -> Any:
    """The value of a YAML file; InputError names the line where it is no YAML."""
    return parse_yaml(read_text(path, remedy), str(path), remedy)


def parse_yaml(text: str, origin: str, remedy: str) -> Any:
    """The value of a YAML text that comes from `origin`; InputError as `read_yaml`."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    if _depth(text) > MAX_DEPTH:
        raise InputError(f"{origin}: nested deeper than {MAX_DEPTH} brackets or indents; {remedy}")
    try:
        return YAML(typ="safe", pure=True).load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise InputError(
            f"{origin}{line}: not valid YAML: {error.problem}; mend that line"
        ) from None
    except (YAMLError, ValueError, TypeError, RecursionError, AttributeError) as error:
        raise InputError(
            f"{origin}: not readable as YAML text: {_short(error)}; {remedy}"
        ) from None


def read_text(path: Path, remedy: str) -> str:
    """The text of a regular file of at most `MAX_BYTES`; InputError otherwise."""
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise InputError(f"{path}: is not a regular file; {remedy}")
        if facts.st_size > MAX_BYTES:
            raise InputError(f"{path}: is larger than {MAX_BYTES >> 20} MB; {remedy}")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: is missing; {remedy}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
    except ValueError as error:
        raise InputError(f"{path}: is no UTF-8 text ({_short(error)}); {remedy}") from None


def _depth(text: str) -> int:
    """An upper bound of how deep a YAML text is nested: brackets, dashes and indents."""
    deepest = brackets = 0
    indents: list[int] = []
    for line in text.splitlines():
        body = line.lstrip(" ")
        indent = len(line) - len(body)
        while indents and indents[-1] >= indent:
            indents.pop()
        indents.append(indent)
        dashes = len(body) - len(body.lstrip("-? "))
        for letter in body:
            brackets = max(brackets + (letter in "[{") - (letter in "]}"), 0)
            deepest = max(deepest, brackets + len(indents) + dashes // 2)
    return deepest


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
