"""Prompt sets from anywhere: read, checked, and what is wrong with them named line by line.

What would make text garbage or rows ambiguous (bad encoding, broken JSON, one id for two
prompts) is an error. Empty lines are left out and repeated prompts taken once, with a warning
that lists their lines; the published test sets keep their repetitions, or scores on them could
not be compared. docs/data.md describes the formats.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tgo.pipeline.config.prompt_settings import PromptSet
from tgo.pipeline.errors import InputError
from tgo.pipeline.generators.sizes import Size
from tgo.pipeline.sources import prompt_layouts
from tgo.pipeline.sources.table_rows import Table, listed

log = logging.getLogger(__name__)
_SIZE = re.compile(r"\s*([1-9]\d{0,5})\s*[x:×]\s*([1-9]\d{0,5})\s*")


class Prompt(NamedTuple):
    """One prompt; `domain` is any grouping of prompts (style, source, language)."""

    id: str
    text: str
    domain: str
    size: Size | None = None
    """Of the shape that its images should have; None leaves it to chance."""


@dataclass
class PromptList:
    """The prompts of a source in order, and notes on what is not as it should be."""

    name: str
    prompts: list[Prompt] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """One line a kind of problem."""

    @property
    def summary(self) -> str:
        """How many prompts, in which domains."""
        domains = {prompt.domain: 0 for prompt in self.prompts}
        for prompt in self.prompts:
            domains[prompt.domain] += 1
        counts = ", ".join(f"{name} {count:,}" for name, count in list(domains.items())[:16])
        more = f" and {len(domains) - 16} more" if len(domains) > 16 else ""
        groups = f" in {len(domains)} domains: {counts}{more}" if len(domains) > 1 else ""
        return f"{self.name}: {len(self.prompts):,} prompts{groups}"


def read(source: PromptSet | Path | str, limit: int | None = None) -> list[Prompt]:
    """The first `limit` prompts of a source (all if None), in its order; warnings go to stderr.

    `id` may be missing (then a hash of the text) and so may `domain` (then "all"). The whole
    source is checked; raises InputError as `check` does, and when it has fewer than `limit`.
    """
    result = check(source)
    for note in result.notes:
        log.warning("%s", note)
    if limit is not None and limit > len(result.prompts):
        raise InputError(
            f"{result.name}: holds {len(result.prompts)} prompts, {limit} are asked for; "
            "lower score.prompts, evaluate.prompts or train.samples.prompts in params.yaml, or add "
            "prompts"
        )
    return result.prompts[:limit]


def check(source: PromptSet | Path | str) -> PromptList:
    """All prompts of a source with what is wrong with them.

    Raises InputError naming source and line for bad encoding, JSON, columns or types, for an id
    that two prompts share, and when there are none.
    """
    wanted = source if isinstance(source, PromptSet) else PromptSet.model_validate(source)
    result = PromptList(wanted.source)
    layout = prompt_layouts.detect(wanted)
    keep = wanted.duplicates == "keep" if wanted.duplicates else layout.keeps_duplicates
    seen = _Seen(keep)
    for table, domain in layout.tables:
        columns = prompt_layouts.columns_of(table, wanted, layout.columns)
        _add(result, table, columns, domain, seen, expected=layout.repeats)
    if not result.prompts:
        raise InputError(
            f'{wanted.source}: holds no prompts; write one {{"prompt": "..."}} a line (.jsonl), or '
            "one prompt a line (.txt)"
        )
    return result


def id_of(text: str) -> str:
    """The id of a prompt that has no other: a hash of its text, 16 hexadecimal digits."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


class _Seen:
    """The prompts so far, to tell repetitions from contradictions."""

    def __init__(self, keep: bool) -> None:
        self.keep = keep
        self._text: dict[str, str] = {}  # by id
        self._where: dict[str, str] = {}  # by id
        self._ids: dict[str, int] = {}  # how many prompts have a text

    def take(self, prompt: Prompt, where: str) -> tuple[Prompt | None, bool]:
        """The prompt to add under an id of its own, if any, and whether its text is repeated."""
        times = self._ids.get(prompt.text, 0)
        if prompt.id in self._text:
            if self._text[prompt.id] != prompt.text:
                raise InputError(
                    f"{where}: id {prompt.id!r} is already on {self._where[prompt.id]}, of another "
                    "prompt; remove one of them or give it another id"
                )
            if not self.keep:
                return None, True
            prompt = prompt._replace(id=f"{prompt.id}-{times + 1}")
        self._text[prompt.id], self._where[prompt.id] = prompt.text, where
        self._ids[prompt.text] = times + 1
        return prompt, times > 0


def _add(
    result: PromptList,
    table: Table,
    columns: Mapping[str, str | None],
    domain: str,
    seen: _Seen,
    *,
    expected: bool,
) -> None:
    """Read a table into `result`; `expected` repetitions are no news."""
    empty: list[int] = []
    repeated: list[int] = []
    for number, values in table.records:
        prompt = None if values is None else _parse(table, number, values, columns, domain)
        if prompt is None:
            empty.append(number)
            continue
        taken, again = seen.take(prompt, table.where(number))
        if again:
            repeated.append(number)
        if taken:
            result.prompts.append(taken)
    result.notes += _notes(table, empty, [] if expected else repeated, seen.keep)


def _notes(table: Table, empty: list[int], repeated: list[int], keep: bool) -> Iterable[str]:
    if empty:
        numbers = f"{table.units} {listed(empty)}"
        yield f"{table.name}: {len(empty):,} without a prompt left out ({numbers})"
    if repeated:
        how = "kept" if keep else "taken once (those with ids of their own are kept)"
        numbers = f"{table.units} {listed(repeated)}"
        yield f"{table.name}: {len(repeated):,} repeated prompts {how} ({numbers})"


def _parse(
    table: Table,
    number: int,
    values: Mapping[str, Any],
    columns: Mapping[str, str | None],
    domain: str,
) -> Prompt | None:
    """The prompt of a row; None if its text is empty."""
    where = table.where(number)
    column = columns["prompt"] or "prompt"
    text = values.get(column)
    if text is None and column in values:
        return None
    if not isinstance(text, str):
        raise InputError(f'{where}: has no text under "{column}"; write {{"{column}": "..."}}')
    text = text.strip()
    if not text:
        return None
    result = {"id": id_of(text), "domain": domain}
    for key in result:
        value = values.get(columns[key] or key)
        if value is None or value == "":
            continue
        if not isinstance(value, str | int) or isinstance(value, bool):
            raise InputError(f"{where}: {key} is {value!r}; make it a text or a whole number")
        result[key] = str(value)
    size = columns["size"] and values.get(columns["size"])
    return Prompt(result["id"], text, result["domain"], _parse_size(size, where) if size else None)


def _parse_size(value: Any, where: str) -> Size:
    """A size or a ratio, as `1216x832` or `16:9`."""
    found = _SIZE.fullmatch(str(value))
    if found is None:
        raise InputError(f"{where}: size is {value!r}; write width and height as 1216x832 or 16:9")
    return Size(int(found[1]), int(found[2]))
