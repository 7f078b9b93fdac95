"""How prompt sets are published, and which columns hold what in any other table.

- PartiPrompts (arXiv:2206.10789): one TSV, `Prompt Category Challenge Note`, fields unquoted.
- HPSv2 (arXiv:2306.09341): four JSON lists of texts, `anime.json concept-art.json paintings.json
  photo.json`; as one list, JSON lines `{"tag", "prompt"}`.
- Pick-a-Pic (arXiv:2305.01569): comparisons of two images, so a caption comes as often as it was
  compared; `caption`, best read from the variant without images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tgo.pipeline.config.prompt_settings import PromptSet
from tgo.pipeline.errors import InputError
from tgo.pipeline.sources import tables
from tgo.pipeline.sources.table_rows import Table

HPSV2_STYLES = ("anime", "concept-art", "paintings", "photo")
USUAL = {
    "prompt": ("prompt", "text", "caption"),
    "id": ("id", "prompt_id"),
    "domain": ("domain", "category", "style", "tag"),
    "size": (),  # a column of this name may mean anything
}
"""Names that a column is found by, in capitals or not, the first that there is."""
_PICKAPIC = {"caption", "image_0_uid", "image_1_uid", "label_0"}
_PARTIPROMPTS = {"Prompt", "Category", "Challenge"}
_HPSV2_LIST = {"tag", "prompt"}


@dataclass(frozen=True)
class Layout:
    """A source's tables, each with the domain of its rows, and what its publisher meant."""

    tables: Iterator[tuple[Table, str]]
    columns: Mapping[str, str] = field(default_factory=dict)
    keeps_duplicates: bool = False
    repeats: bool = False
    """Whether prompts are bound to be repeated."""


def detect(wanted: PromptSet) -> Layout:
    """The layout of a prompt set: as its `format` says, else by its name and columns."""
    if wanted.format == "hpsv2" or (wanted.format is None and _has_styles(wanted.source)):
        return _hpsv2(wanted)
    named = wanted.format not in (None, "partiprompts", "pickapic")
    table = tables.read(wanted.source, wanted.format if named else None, split=wanted.split)
    rows = iter([(table, "all")])
    columns = set(table.columns)
    if wanted.format == "partiprompts" or (not named and columns >= _PARTIPROMPTS):
        own = {"prompt": "Prompt", "domain": "Category"}
        return Layout(rows, _require(table, own), keeps_duplicates=True)
    if wanted.format == "pickapic" or (not named and columns >= _PICKAPIC):
        return Layout(rows, _require(table, {"prompt": "caption"}), repeats=True)
    return Layout(rows, keeps_duplicates=not named and columns == _HPSV2_LIST)


def columns_of(table: Table, wanted: PromptSet, own: Mapping[str, str]) -> dict[str, str | None]:
    """Which column holds what of a prompt: as asked for, as published, or by usual names."""
    asked = wanted.columns.model_dump()
    for key, name in asked.items():
        if name is not None and name not in table.columns and table.fixed:
            raise InputError(
                f"{table.name}: has no column {name!r}, but {', '.join(table.columns)}; correct "
                f"columns.{key}"
            )
    chosen = {key: asked[key] or own.get(key) or _usual(table.columns, key) for key in USUAL}
    if chosen["prompt"] is None and table.fixed:
        raise InputError(
            f"{table.name}: has no column of prompts, but {', '.join(table.columns)}; name it with "
            "{source: ..., columns: {prompt: NAME}}"
        )
    return chosen


def _usual(columns: Sequence[str], key: str) -> str | None:
    by_name = {name.lower(): name for name in reversed(columns)}
    return next((by_name[name] for name in USUAL[key] if name in by_name), None)


def _require(table: Table, columns: dict[str, str]) -> dict[str, str]:
    absent = [name for name in columns.values() if name not in table.columns]
    if absent:
        raise InputError(
            f"{table.name}: has no column {absent[0]!r}, but {', '.join(table.columns)}; leave "
            "the format out, or correct it"
        )
    return columns


def _has_styles(source: str) -> bool:
    return all((Path(source) / f"{style}.json").is_file() for style in HPSV2_STYLES)


def _hpsv2(wanted: PromptSet) -> Layout:
    """The four lists of a folder or of a hub repository's `benchmark`, or one file of them all."""
    path = Path(wanted.source)
    if path.is_file():
        table = tables.read(wanted.source)
        lone = path.stem if path.stem in HPSV2_STYLES else "all"
        return Layout(iter([(table, lone)]), keeps_duplicates=True)
    folder = path if path.is_dir() else _download(wanted.source)
    for style in HPSV2_STYLES:
        if not (folder / f"{style}.json").is_file():
            raise InputError(
                f"{folder / style}.json: is missing; name a folder with the four lists "
                f"{', '.join(f'{style}.json' for style in HPSV2_STYLES)}"
            )
    lists = ((tables.read(str(folder / f"{style}.json")), style) for style in HPSV2_STYLES)
    return Layout(lists, keeps_duplicates=True)


def _download(repository: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            repository, repo_type="dataset", allow_patterns="benchmark/*.json"
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(
            f"{repository}: no such folder or reachable hub dataset ({reason}); name a folder "
            "with HPSv2's four lists"
        ) from None
    return Path(folder) / "benchmark"
