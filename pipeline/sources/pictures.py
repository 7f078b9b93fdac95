"""Where rated pictures lie, in files or in the rows of a dataset, and their encoded bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tgo.pipeline.errors import InputError


class Cell(NamedTuple):
    """A picture in a dataset: its row from 0, and its column."""

    row: int
    column: str


Place = Path | Cell


@dataclass(frozen=True)
class Pictures:
    """Pictures by their place; `rows` is the dataset that cells point into, if there is one."""

    rows: Any = None

    @classmethod
    def of_dataset(cls, name: str, rows: Any, columns: Sequence[str]) -> Pictures:
        """The columns of pictures of a dataset: image features, or plain bytes."""
        import datasets

        chosen = rows.select_columns(list(columns))
        for column in columns:
            kind = chosen.features[column]
            if isinstance(kind, datasets.Image):
                chosen = chosen.cast_column(column, datasets.Image(decode=False))
            elif getattr(kind, "dtype", None) not in ("binary", "large_binary"):
                raise InputError(
                    f"{name}: column {column!r} holds no pictures but {kind}; name another"
                )
        return cls(chosen)

    def read(self, place: Place) -> bytes:
        """The encoded picture; OSError if it cannot be had."""
        if isinstance(place, Path):
            return place.read_bytes()
        found = self.rows[place.row][place.column]
        if isinstance(found, dict):
            if found["bytes"] is None and found["path"] is not None:
                return Path(found["path"]).read_bytes()
            found = found["bytes"]
        if found is None:
            raise FileNotFoundError(2, "the row has no picture")
        return bytes(found)
