"""Tables of ratings as people publish them: a row a rating, pairs, or wins and losses."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tgo.pipeline.errors import InputError
from tgo.pipeline.sources import tables
from tgo.pipeline.sources.pictures import Cell, Pictures, Place
from tgo.pipeline.sources.prompt_layouts import USUAL
from tgo.pipeline.sources.tables import Table, listed

Columns = Mapping[str, str | None]
NAMES: dict[str, tuple[str, ...]] = {
    "image": ("file_name", "image", "image_path", "file_path", "file", "path", "filename"),
    "prompt": USUAL["prompt"],
    "rating": ("rating", "score", "stars", "likes", "clicks", "label"),
    "count": ("n_ratings", "count"),
    "id": ("image_id", "uid", "id"),
    "domain": USUAL["domain"],
}
"""Names that a column is found by, in capitals or not, the first that there is."""
KTO = {"exclusive_win": 1.0, "exclusive_lose": 0.0, "intersections": 0.5}
"""Values of Diffusion-KTO's column `split` (in its description: `label`)."""
_PAIR = ("image_0_uid", "image_1_uid", "label_0", "label_1", "caption")
_IN_FOLDER = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


class Rating(NamedTuple):
    """`times` ratings of one picture with the mean `value`, as a row of a source tells."""

    key: str
    prompt: str
    domain: str
    value: float
    times: int
    place: Place


@dataclass(frozen=True)
class Source:
    """Where ratings come from; what is None is found by itself."""

    name: str
    format: str | None = None
    """table, pickapic or diffusion-kto."""
    images: Path | None = None
    """The folder that file names are relative to; None: where the table lies."""
    columns: Columns = field(default_factory=dict)
    """Names of columns for the keys of `NAMES`."""
    unit: str | None = None
    split: str = "train"


class RatingTable:
    """One source, read row by row; what rates nothing is noted."""

    def __init__(self, source: Source) -> None:
        self._source, name = source, _table_of(source.name)
        self._without: dict[str, list[int]] = {}
        self.pictures = Pictures()
        self._rows: Any = None
        self._table: Table
        if tables.format_of(name) in ("parquet", "hub"):
            self._rows = tables.load_dataset(name, source.split)
            self._table = tables.of_dataset(name, self._rows)
        else:
            self._table = tables.read(name)
        self._folder = source.images or Path(name).parent

    @property
    def name(self) -> str:
        """Of the table itself, where a folder was named."""
        return self._table.name

    def ratings(self) -> tuple[Iterator[Rating], str]:
        """Every rating as it stands there, and the unit of their mean."""
        layout = self._source.format or self._layout()
        if layout == "pickapic":
            return self._pairs()
        return self._kto() if layout == "diffusion-kto" else self._single()

    def notes(self) -> list[str]:
        """What was left out, with its places, a line a kind; after the ratings were read."""
        return [
            f"{self.name}: {len(rows):,} {what} left out ({self._table.unit}s {listed(rows)})"
            for what, rows in self._without.items()
        ]

    def _layout(self) -> str:
        columns = set(self._table.columns)
        if columns.issuperset(_PAIR):
            return "pickapic"
        name = Path(self.name).name
        described = {"caption", "label"} <= columns and name.endswith("_processed_v3.csv")
        published = {"file_name", "caption", "split"} <= columns
        return "diffusion-kto" if published or described else "table"

    def _single(self) -> tuple[Iterator[Rating], str]:
        """A row a rating, in the columns asked for or by usual names."""
        chosen = {key: self._column(key) for key in NAMES}
        picture = self._picture_column(chosen["image"])
        for key in ("prompt", "rating"):
            if chosen[key] is None:
                raise self._no_column(key)
        return self._rated(chosen, picture, _number), str(chosen["rating"])

    def _kto(self) -> tuple[Iterator[Rating], str]:
        """Diffusion-KTO: `file_name, caption, split`, or as it describes itself."""
        columns = self._table.columns
        chosen: dict[str, str | None] = {
            "image": "file_name" if "file_name" in columns else "file_path",
            "prompt": "caption",
            "rating": "split" if "split" in columns else "label",
            "count": None,
            "id": None,
            "domain": None,
        }
        self._require([name for name in chosen.values() if name])
        return self._rated(chosen, None, _kto_value), "won (1), lost (0) or both (0.5)"

    def _pairs(self) -> tuple[Iterator[Rating], str]:
        """Pick-a-Pic: two pictures a row and which of them was preferred."""
        self._require(_PAIR)
        embedded = [
            name for name in ("jpg_0", "jpg_1") if self._rows and name in self._rows.features
        ]
        if embedded:
            self.pictures = Pictures.of_dataset(self.name, self._rows, embedded)

        def ratings() -> Iterator[Rating]:
            for number, values in self._records():
                prompt = self._text(number, values, "caption")
                sides = [_number(self._table.where(number), values[f"label_{i}"], f"label_{i}")
                         for i in (0, 1)]  # fmt: skip
                if values.get("has_label") in (False, 0) or None in sides:
                    self._leave_out("comparisons without a preference", number)
                    continue
                for side, value in enumerate(sides):
                    uid = str(values[f"image_{side}_uid"])
                    place = (
                        Cell(number - 1, f"jpg_{side}") if embedded else self._file(f"{uid}.jpg")
                    )
                    if prompt is not None and value is not None:
                        yield Rating(uid, prompt, "all", value, 1, place)

        return ratings(), "win rate"

    def _rated(
        self,
        chosen: Columns,
        picture: str | None,
        number_of: Callable[[str, Any, str | None], float | None],
    ) -> Iterator[Rating]:
        for number, values in self._records():
            where = self._table.where(number)
            value = number_of(where, values.get(str(chosen["rating"])), chosen["rating"])
            prompt = self._text(number, values, str(chosen["prompt"]))
            if value is None:
                self._leave_out("rows without a rating", number)
            if value is None or prompt is None:
                continue
            count = _count(where, values, chosen["count"])
            place, key = self._place(number, values, chosen, picture)
            domain = str(values.get(chosen["domain"] or "") or "all")
            yield Rating(key, prompt, domain, value, count, place)

    def _place(
        self, number: int, values: Mapping[str, Any], chosen: Columns, picture: str | None
    ) -> tuple[Place, str]:
        """Where a row's picture lies, and what tells it from others: an id, a name or its bytes."""
        own = values.get(chosen["id"] or "")
        if picture:
            place = Cell(number - 1, picture)
            return place, str(own) if own not in (None, "") else self._digest(place)
        name = values.get(str(chosen["image"]))
        if not isinstance(name, str) or not name.strip():
            raise InputError(
                f"{self._table.where(number)}: names no picture under {chosen['image']!r}; write a "
                "file name or remove the row"
            )
        return self._file(name), name

    def _file(self, name: str) -> Path:
        return self._folder / name

    def _digest(self, place: Cell) -> str:
        try:
            data = self.pictures.read(place)
        except OSError:  # the row becomes a failed one, told by its number
            return f"row-{place.row + 1:08d}"
        return hashlib.blake2b(data, digest_size=8).hexdigest()

    def _records(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        for number, values in self._table.records:
            if values is None:
                self._leave_out("empty lines", number)
            else:
                yield number, values

    def _text(self, number: int, values: Mapping[str, Any], column: str) -> str | None:
        text = values.get(column)
        if text is None or (isinstance(text, str) and not text.strip()):
            self._leave_out("rows without a prompt", number)
            return None
        if not isinstance(text, str):
            raise InputError(f"{self._table.where(number)}: {column} is {text!r}; make it a text")
        return text.strip()

    def _leave_out(self, what: str, number: int) -> None:
        self._without.setdefault(what, []).append(number)

    def _column(self, key: str) -> str | None:
        """The column of a key, asked for or by a usual name; None if there is none."""
        asked = self._source.columns.get(key)
        columns = [*self._table.columns, *(self._rows.column_names if self._rows else ())]
        if asked is not None:
            if asked not in columns and self._table.fixed:
                raise self._no_column(key, asked)
            return asked
        by_name = {name.lower(): name for name in reversed(columns)}
        return next((by_name[name] for name in NAMES[key] if name in by_name), None)

    def _picture_column(self, column: str | None) -> str | None:
        """The dataset's column of pictures; None where a column names files."""
        if column is None:
            raise self._no_column("image")
        if column in self._table.columns or self._rows is None:
            return None
        self.pictures = Pictures.of_dataset(self.name, self._rows, [column])
        return column

    def _require(self, columns: Sequence[str]) -> None:
        for name in columns:
            if name not in self._table.columns:
                raise self._no_column("format", name)

    def _no_column(self, key: str, name: str | None = None) -> InputError:
        columns = self._rows.column_names if self._rows else self._table.columns
        what = f"no column {name!r}" if name else f"no column of {key}s"
        option = "--format" if key == "format" else f"--{key}-column"
        return InputError(
            f"{self.name}: has {what}, but {', '.join(columns)}; name it with {option}"
        )


def _table_of(name: str) -> str:
    """The table of a folder: its metadata file, Diffusion-KTO's CSV, or the folder as a dataset."""
    folder = Path(name)
    if not folder.is_dir():
        return name
    found = [folder / file for file in _IN_FOLDER if (folder / file).is_file()]
    found = found or sorted(folder.glob("*_processed_v3.csv"))
    if len(found) == 1:
        return str(found[0])
    if (not found and any(folder.rglob("*.parquet"))) or (folder / "state.json").is_file():
        return name
    files = ", ".join(path.name for path in found) or "none of them"
    raise InputError(
        f"{name}: needs one of {', '.join(_IN_FOLDER)} with file_name, prompt and rating, and has "
        f"{files}; name the table itself, and the folder with --images"
    )


def _number(where: str, value: Any, column: str | None) -> float | None:
    """A rating; None if there is none."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise InputError(
            f"{where}: {column} is {value!r}, which is no number; write one, or name another "
            "column of ratings"
        ) from None
    if math.isnan(number):
        return None
    if math.isinf(number):
        raise InputError(f"{where}: {column} is infinite; write a number or leave it empty")
    return number


def _kto_value(where: str, value: Any, column: str | None) -> float | None:
    if value not in KTO:
        raise InputError(f"{where}: {column} is {value!r}; write one of {', '.join(KTO)}")
    return KTO[value]


def _count(where: str, values: Mapping[str, Any], column: str | None) -> int:
    """How many ratings a row stands for: 1 where no column says."""
    number = _number(where, values.get(column), column) if column else None
    if number is None:
        return 1
    if number < 1 or number != int(number):
        raise InputError(f"{where}: {column} is {number:g}; write how many ratings it stands for")
    return int(number)
