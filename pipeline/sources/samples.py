"""What `tgo rate` scores: images with their prompts, from a folder or from any dataset."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
from tgo.pipeline.errors import InputError
from tgo.pipeline.sources.tables import load_dataset

_NAMES = ("file_name", "image", "file", "path", "id")
_TEXTS = ("prompt", "text", "caption")


class Samples(Protocol):
    """Rows to be scored, in a fixed order."""

    def __len__(self) -> int: ...

    def id(self, place: int) -> str:
        """A name for the row that stays the same between runs."""
        ...

    def prompt(self, place: int) -> str | None:
        """None where there is none."""
        ...

    def image(self, place: int) -> bytes | Path:
        """The encoded image or its file; OSError if it cannot be had."""
        ...

    def stamp(self, place: int) -> Any:
        """A JSON value that changes when the image does."""
        ...


class Folder:
    """Every file of a folder and the folders in it, hidden ones apart, in the order of names."""

    def __init__(self, folder: Path, prompts: Path) -> None:
        """Read the names of `folder` and the prompts.

        `prompts` is a .jsonl, .csv or .tsv file with a file name and a prompt per row, or a .txt
        with one prompt a line in the order of names.
        """
        self._folder = folder
        here = prompts.resolve()
        self._files = [
            path
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.resolve() != here and not _hidden(path.relative_to(folder))
        ]
        if not self._files:
            raise InputError(f"{folder}: holds no files; name the folder of the images")
        names = [self.id(place) for place in range(len(self._files))]
        self._prompts = _read_prompts(prompts, names)
        absent = sorted(self._prompts.keys() - set(names))
        if absent:
            raise InputError(
                f"{prompts}: names {absent[0]}, which is not in {folder}; correct the name, it is "
                "relative to the folder"
            )

    def __len__(self) -> int:
        return len(self._files)

    def id(self, place: int) -> str:
        return self._files[place].relative_to(self._folder).as_posix()

    def prompt(self, place: int) -> str | None:
        return self._prompts.get(self.id(place))

    def image(self, place: int) -> Path:
        return self._files[place]

    def stamp(self, place: int) -> list[int]:
        stat = self._files[place].stat()
        return [stat.st_size, stat.st_mtime_ns]


class Dataset:
    """A dataset with an image and a prompt column: Parquet, a dataset folder, or one of the hub."""

    def __init__(self, place: str, *, image: str, prompt: str, split: str) -> None:
        self._place = place
        self._rows = load_dataset(place, split)
        for column in (image, prompt):
            if column not in self._rows.column_names:
                raise InputError(
                    f"{place}: has no column {column!r}, but {', '.join(self._rows.column_names)}; "
                    "name them with --image-column and --prompt-column"
                )
        import datasets

        try:
            self._images = self._rows.select_columns([image]).cast_column(
                image, datasets.Image(decode=False)
            )
        except (TypeError, ValueError, pa.ArrowException) as error:
            reason = " ".join(str(error).split())[:160]
            raise InputError(f"{place}: column {image!r} holds no images ({reason})") from None
        self._column = image
        self._prompts: Sequence[Any] = self._rows[prompt]
        named = "id" in self._rows.column_names
        self._ids = [str(row) for row in self._rows["id"]] if named else None

    def __len__(self) -> int:
        return len(self._rows)

    def id(self, place: int) -> str:
        return self._ids[place] if self._ids else f"{place:08d}"

    def prompt(self, place: int) -> str | None:
        text = self._prompts[place]
        return text if isinstance(text, str) else None

    def image(self, place: int) -> bytes | Path:
        found = self._images[place][self._column]
        if found is None or (found["bytes"] is None and found["path"] is None):
            raise FileNotFoundError("the row has no image")
        return found["bytes"] if found["bytes"] is not None else Path(found["path"])

    def stamp(self, place: int) -> str:
        return str(self._rows._fingerprint)


def open_samples(
    data: str | Path, prompts: str | Path | None, *, image: str, prompt: str, split: str
) -> Samples:
    """A folder of images (with a file of prompts), or a dataset (that has a prompt column)."""
    if prompts is None:
        return Dataset(str(data), image=image, prompt=prompt, split=split)
    if not Path(data).is_dir():
        raise InputError(f"{data}: no such folder; --prompts goes with a folder of images")
    return Folder(Path(data), Path(prompts))


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _read_prompts(path: Path, names: Sequence[str]) -> dict[str, str]:
    """Prompts by file name."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text ({error})") from None
    if path.suffix == ".txt":
        lines = text.splitlines()
        if len(lines) != len(names):
            raise InputError(
                f"{path}: has {len(lines)} lines for {len(names)} files; write one prompt a file, "
                "in the order of their names, or a .jsonl or .csv with names"
            )
        return dict(zip(names, lines, strict=True))
    if path.suffix == ".jsonl":
        return _by_name(path, _json_lines(path, text))
    if path.suffix in (".csv", ".tsv"):
        delimiter = "\t" if path.suffix == ".tsv" else ","
        return _by_name(path, csv.DictReader(text.splitlines(keepends=True), delimiter=delimiter))
    raise InputError(f"{path}: not a list of prompts; name a .jsonl, .csv, .tsv or .txt file")


def _json_lines(path: Path, text: str) -> Iterable[Mapping[str, Any]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                yield json.loads(line)
            except ValueError as error:
                raise InputError(f"{path}, line {number}: not valid JSON ({error})") from None


def _by_name(path: Path, rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for number, row in enumerate(rows, start=1):
        keys = row if isinstance(row, Mapping) else {}
        name = next((row[key] for key in _NAMES if key in keys), None)
        text = next((row[key] for key in _TEXTS if key in keys), None)
        if not isinstance(name, str) or not isinstance(text, str):
            raise InputError(
                f"{path}, row {number}: needs a file name under one of {', '.join(_NAMES)} and a "
                f"text under one of {', '.join(_TEXTS)}"
            )
        if name in found:
            raise InputError(f"{path}, row {number}: names {name} a second time")
        found[name] = text
    return found
