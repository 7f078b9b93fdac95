"""Prompt sets: JSONL files of ``{"id": ..., "prompt": ..., "domain": ...}`` lines."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import InputError


class Prompt(NamedTuple):
    """One prompt; `domain` is any grouping of prompts (style, source, language)."""

    id: str
    text: str
    domain: str


def read(path: Path | str, limit: int | None = None) -> list[Prompt]:
    """The first `limit` prompts of a file (all if None), in its order.

    `id` may be missing (then a hash of the text) and so may `domain` (then "all"). The whole
    file is checked; raises InputError naming file and line for bad encoding, JSON, types,
    empty or repeated prompts, and when the file has none or fewer than `limit`.
    """
    path = Path(path)
    prompts: list[Prompt] = []
    first_line: dict[str, int] = {}
    for number, line in _lines(path):
        prompt = _parse(path, number, line)
        if prompt.id in first_line:
            raise InputError(
                f"{path}, line {number}: id {prompt.id!r} is already on line "
                f"{first_line[prompt.id]}; remove one of them or give it another id"
            )
        first_line[prompt.id] = number
        prompts.append(prompt)
    if not prompts:
        raise InputError(f'{path}: holds no prompts; write one {{"prompt": "..."}} a line')
    if limit is not None and limit > len(prompts):
        raise InputError(
            f"{path}: holds {len(prompts)} prompts, {limit} are asked for; "
            "lower score.prompts or evaluate.prompts in params.yaml, or add prompts"
        )
    return prompts[:limit]


def _lines(path: Path) -> list[tuple[int, str]]:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); correct the path under prompts"
        ) from None
    lines = []
    for number, line in enumerate(raw.removeprefix(b"\xef\xbb\xbf").splitlines(), start=1):
        try:
            text = line.decode("utf-8").strip()
        except UnicodeDecodeError:
            raise InputError(f"{path}, line {number}: not UTF-8; convert the file") from None
        if text:
            lines.append((number, text))
    return lines


def _parse(path: Path, number: int, line: str) -> Prompt:
    where = f"{path}, line {number}"
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not valid JSON ({error.msg}); mend that line") from None
    if not isinstance(record, dict) or not isinstance(record.get("prompt"), str):
        raise InputError(f'{where}: has no text under "prompt"; write {{"prompt": "..."}}')
    text = record["prompt"].strip()
    if not text:
        raise InputError(f"{where}: the prompt is empty; write a text or remove the line")
    values = {"id": _hash(text), "domain": "all"} | {
        key: record[key] for key in ("id", "domain") if key in record
    }
    for key, value in values.items():
        if not isinstance(value, str) or not value:
            raise InputError(f"{where}: {key} is {value!r}; make it a text of at least one letter")
    return Prompt(values["id"], text, values["domain"])


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
