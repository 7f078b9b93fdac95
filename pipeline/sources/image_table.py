"""Tables of pictures from any source: what `tgo import` and `tgo score-images` both read.

A table file with names of pictures, a folder with a metadata file, a dataset (Parquet, saved, on
the hub), tar files of the webdataset kind: all become rows, and a way to read their pictures.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tgo.pipeline.errors import InputError
from tgo.pipeline.sources import arrow_tables, pictures, tables, webdataset
from tgo.pipeline.sources.pictures import Cell, Location, Member, Pictures, Unusable
from tgo.pipeline.sources.table_rows import LISTED, Record, Table

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
PROMPTS = ("prompt", "text", "caption", "txt")
NAMES: dict[str, tuple[str, ...]] = {
    "image": (
        "file_name", "image", "image_path", "file_path", "file", "path", "filename", "picture",
        "img", "jpg", "png",
    ),
    "prompt": PROMPTS,
    "id": ("image_id", "uid", "id", "key", "__key__"),
    "domain": ("domain", "category", "style", "tag"),
}  # fmt: skip
"""Names that a column is known by, in capitals or not; the first one that there is."""
_TEXT_TYPES = ("string", "large_string", "string_view")


@dataclass(frozen=True)
class Source:
    """Where pictures come from; what is None follows from the source itself."""

    name: str
    format: str | None = None
    """The name of a layout (`rating_layouts.LAYOUTS`)."""
    images: Path | None = None
    """The folder that file names are relative to; None: where the table lies."""
    columns: Mapping[str, str | None] = field(default_factory=dict)
    """Names of columns for keys such as those of `NAMES`."""
    unit: str | None = None
    split: str = "train"
    labels: Mapping[str, float] = field(default_factory=dict)
    """Numbers for ratings that are words."""
    keep: Sequence[str] = ()
    """Further columns that become columns of the shards."""
    outside: bool = False
    """Whether file names may lead out of their folder."""


class ImageTable:
    """The rows of a source, and where their pictures lie.

    Attributes:
        name: The table itself, where a folder was named.
        kind: What the source was recognised as, in words.
        columns: The columns of values.
        picture_columns: The columns of a dataset that hold pictures.
    """

    def __init__(self, source: Source) -> None:
        """Open a source.

        Args:
            source: where the table and its pictures lie.

        Raises:
            InputError: nothing there can be read as a table of pictures.
        """
        self.source = source
        self._rows: Any = None
        self.picture_columns: list[str] = []
        self._folder = source.images or Path(source.name).parent
        self._table = self._open()
        self._allowed = None if source.outside else self._folder
        self.pictures = Pictures(folder=self._allowed)

    @property
    def name(self) -> str:
        return self._table.name

    @property
    def units(self) -> str:
        return self._table.units

    @property
    def fixed(self) -> bool:
        return self._table.fixed

    @property
    def columns(self) -> list[str]:
        return [*self._table.columns, *self._table.lists]

    def where(self, number: int) -> str:
        """A row's place in words."""
        return self._table.where(number)

    def records(self, lists: Sequence[str] = ()) -> Iterator[Record]:
        """The rows, with the columns of lists that are asked for; call it once."""
        wanted = [name for name in lists if name in self._table.lists]
        if not wanted:
            return self._table.records
        if self._rows is not None:
            return arrow_tables.of_dataset(self.name, self._rows, wanted).records
        return arrow_tables.read_parquet(self.name, wanted).records

    def column(self, key: str, names: Sequence[str]) -> str | None:
        """The column asked for under a key of `Source.columns`, else the first of usual names.

        Args:
            key: what the column is for: image, prompt, rating.
            names: the usual names in lower case, the likeliest first.

        Returns:
            The column's name; None where none was asked for and no usual name is there.

        Raises:
            InputError: there is no column of the name that was asked for.
        """
        asked = self.source.columns.get(key)
        columns = [*self.columns, *self.picture_columns]
        if asked is not None:
            if asked.lower() in webdataset.ENDINGS and webdataset.IMAGE in columns:
                return webdataset.IMAGE
            if asked not in columns and self.fixed:
                raise self.no_column(key, asked)
            return asked
        by_name = {name.lower(): name for name in reversed(columns)}
        return next((by_name[name] for name in names if name in by_name), None)

    def use_pictures(self, columns: Sequence[str]) -> None:
        """Read pictures from those of the columns that hold some; texts are names of files.

        Args:
            columns: columns of pictures, or of the names of their files.

        Raises:
            InputError: a column of a dataset holds neither.
        """
        features = {} if self._rows is None else self._rows.features
        chosen = [
            name
            for name in columns
            if name in features and getattr(features[name], "dtype", "") not in _TEXT_TYPES
        ]
        if chosen:
            self.pictures = Pictures.of_dataset(self.name, self._rows, chosen, self._allowed)

    def has_picture(self, values: Mapping[str, Any], column: str) -> bool:
        """Whether a row names a picture; one in a dataset is looked for when it is read."""
        value = values.get(column)
        named = isinstance(value, Member) or (isinstance(value, str) and bool(value.strip()))
        return named or column in self.picture_columns

    def locate(self, number: int, values: Mapping[str, Any], column: str) -> Location:
        """Where a row's picture lies."""
        if column in self.picture_columns:
            return Cell(number - 1, column)
        value = values.get(column)
        if isinstance(value, Member):
            return value
        if isinstance(value, str) and value.strip():
            return pictures.locate(self._folder, value.strip())
        return Unusable("the row names no picture")

    def locate_name(self, name: str) -> Location:
        """Where a picture of this file name lies."""
        return pictures.locate(self._folder, name)

    def key_of(self, number: int, values: Mapping[str, Any], column: str) -> str:
        """What tells a row's picture from others: its file name, or its bytes."""
        value = values.get(column)
        if isinstance(value, Member):
            return str(values.get("__key__", number))
        if isinstance(value, str) and value.strip() and column not in self.picture_columns:
            too_long = len(value) > 1024  # no name but the picture itself, as text
            name = pictures.label_studio_file(value.strip())
            return f"row-{number:08d}" if too_long else pictures.shown(name)
        try:
            data = self.pictures.read(self.locate(number, values, column))
        except OSError:  # the row fails later, and is known by its number
            return f"row-{number:08d}"
        return hashlib.blake2b(data, digest_size=8).hexdigest()

    def no_column(self, key: str, name: str | None = None) -> InputError:
        """The error for a column that is missing."""
        there = ", ".join([*self.columns, *self.picture_columns])
        what = f"no column {name!r}" if name else f"no column of {key}s"
        option = "--format" if key == "format" else f"--{key}-column"
        hint = f"; name it with {option}"
        if {"url", "image_url", "URL"} & {*self.columns} and key == "image":
            hint += ", or download the pictures at the addresses first"
        return InputError(f"{self.name}: has {what}, but {there}{hint}")

    def _open(self) -> Table:
        name = self.source.name
        folder = Path(name)
        if folder.suffix == ".tar" and folder.is_file():
            return self._tars([folder])
        if folder.is_dir():
            return self._open_folder(folder)
        return self._open_named(name)

    def _open_named(self, name: str) -> Table:
        """A file of a known kind, or a dataset."""
        if tables.format_of(name) not in ("parquet", "hub"):
            self.kind = f"a table ({tables.format_of(name)})"
            return tables.read(name)
        self._rows = arrow_tables.load_dataset(name, self.source.split)
        self.kind = "a Parquet file" if name.endswith(".parquet") else "a dataset"
        self.picture_columns = [
            column for column, kind in self._rows.features.items() if pictures.holds_pictures(kind)
        ]
        return arrow_tables.of_dataset(name, self._rows)

    def _tars(self, paths: Sequence[Path]) -> Table:
        self.kind = f"{len(paths)} tar files of samples (webdataset)"
        return webdataset.read(paths)

    def _open_folder(self, folder: Path) -> Table:
        name = str(folder)
        saved = ("state.json", "dataset_dict.json")
        if any((folder / file).is_file() for file in saved):
            return self._open_named(name)
        if tars := sorted(folder.glob("*.tar"), key=natural_key):
            return self._tars(tars)
        for place in (folder, folder / self.source.split):
            found = [place / file for file in METADATA if (place / file).is_file()]
            if len(found) == 1:
                return self._beside(found[0])
        lists = sorted(folder.glob("*_processed_v3.csv")) or [
            path for path in sorted(folder.iterdir()) if path.suffix.lower() in tables.SUFFIXES
        ]
        if len(lists) == 1 and lists[0].suffix != ".txt":
            return self._beside(lists[0])
        if any(folder.rglob("*.parquet")) or any(folder.rglob("*.arrow")):
            return self._open_named(name)
        files = ", ".join(path.name for path in lists[:LISTED]) or "none of them"
        raise InputError(
            f"{name}: needs one of {', '.join(METADATA)} with file_name, prompt and rating, and "
            f"has {files}; name the table itself, and the folder with --images"
        )

    def _beside(self, path: Path) -> Table:
        """A table whose pictures lie beside it."""
        self._folder = self.source.images or path.parent
        table = self._open_named(str(path))
        self.kind = f"a folder with {path.name}"
        return table


def natural_key(path: Path) -> list[tuple[int, int, str]]:
    """A key that sorts 2.png before 10.png."""
    return [
        (0, int(part), part) if part.isascii() and part.isdigit() else (1, 0, part)
        for part in re.split(r"([0-9]+)", path.as_posix())
    ]
