"""Where pictures lie (files, rows of a dataset, members of a tar) and how their bytes are read.

A table is somebody else's: a name in it may point to a device, out of the folder, or to nothing.
Such a picture cannot be read, with the reason, and the others can.
"""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from tgo.pipeline.errors import InputError

MAX_BYTES = 256 << 20
"""Most bytes of an encoded picture that are read."""
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_BASE64 = re.compile(r"(data:image/|[A-Za-z0-9+/=\s]{200})")


class Cell(NamedTuple):
    """A picture in a dataset: its row from 0, and its column."""

    row: int
    column: str


class Member(NamedTuple):
    """A picture in a tar file: where its bytes begin, and how many they are."""

    tar: Path
    offset: int
    size: int


class Unusable(NamedTuple):
    """A picture that is none that can be read here, and why."""

    reason: str


Location = Path | Cell | Member | Unusable


@dataclass(frozen=True)
class Pictures:
    """Reads pictures by their location.

    Attributes:
        rows: The dataset that cells point into, if there is one.
        folder: What files must lie in, links followed; None allows any place.
    """

    rows: Any = None
    folder: Path | None = None

    @classmethod
    def of_dataset(
        cls, name: str, rows: Any, columns: Sequence[str], folder: Path | None = None
    ) -> Pictures:
        """The columns of pictures of a dataset: image features, bytes, or both as they are stored.

        Args:
            name: the dataset's, for the error.
            rows: a `datasets.Dataset`.
            columns: those that hold pictures.
            folder: what files that the rows name must lie in; None allows any place.

        Returns:
            What reads the pictures of these columns.

        Raises:
            InputError: a column holds something else.
        """
        import datasets

        chosen = rows.select_columns(list(columns))
        for column in columns:
            kind = chosen.features[column]
            if isinstance(kind, datasets.Image):
                chosen = chosen.cast_column(column, datasets.Image(decode=False))
            elif getattr(kind, "dtype", None) == "binary_view":
                chosen = chosen.cast_column(column, datasets.Value("binary"))
            elif not holds_pictures(kind):
                raise InputError(
                    f"{name}: column {column!r} holds no pictures but {kind}; name another"
                )
        return cls(chosen, folder)

    def read(self, location: Location) -> bytes:
        """The encoded picture; an OSError that says why if it cannot be had."""
        if isinstance(location, Unusable):
            raise OSError(location.reason)
        if isinstance(location, Path):
            return self._read_file(location)
        if isinstance(location, Member):
            return _read_member(location)
        value = self.rows[location.row][location.column]
        if isinstance(value, dict):
            if value["bytes"] is None and value["path"] is not None:
                return self._read_file(Path(value["path"]))
            value = value["bytes"]
        if value is None:
            raise OSError("the row has no picture")
        return bytes(value)

    def _read_file(self, path: Path) -> bytes:
        """An ordinary file of bounded size: no device, no pipe that waits for ever."""
        try:
            if self.folder and not path.resolve().is_relative_to(self.folder.resolve()):
                raise OSError(f"lies outside {self.folder}; --outside allows that")
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except (ValueError, RuntimeError) as error:  # a NUL in the name; a circle of links
            raise OSError(f"is no usable file name ({error})") from None
        with os.fdopen(handle, "rb") as file:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise OSError("is no ordinary file")
            if status.st_size > MAX_BYTES:
                raise OSError(f"is larger than {MAX_BYTES >> 20} MiB")
            return file.read(MAX_BYTES)


def holds_pictures(kind: Any) -> bool:
    """Whether a feature of `datasets` can hold pictures: images, bytes, or bytes with a path."""
    import datasets

    if isinstance(kind, dict):
        return {"bytes", "path"} <= kind.keys()
    binary = ("binary", "large_binary", "binary_view")
    return isinstance(kind, datasets.Image) or getattr(kind, "dtype", None) in binary


def locate(folder: Path, name: str) -> Location:
    """The file that a table means by a name, relative to a folder or absolute.

    Backslashes (Windows) and the two ways of writing an accent (macOS) are tried in turn; an
    address on a Label Studio server means the file behind it.
    """
    served = label_studio_file(name)
    if served != name and os.path.exists(folder / served):
        return folder / served
    if _ADDRESS.match(name):
        return Unusable(
            "is an address on the web, which is not fetched; download the pictures first (with "
            "img2dataset, say)"
        )
    if _BASE64.match(name):
        return Unusable("is a picture as base64 text; save the pictures as files")
    for spelling in (name, *spellings(name)):
        if os.path.exists(folder / spelling):
            return folder / spelling
    return folder / name


def label_studio_file(address: str) -> str:
    """The file that Label Studio serves at an address; any other name as it is.

    `/data/local-files/?d=FILE` names a file below its document root; `/data/upload/PROJECT/FILE`
    an upload, whose name was given eight digits and a dash.
    """
    parts = urlsplit(address)
    if parts.path.endswith("/data/local-files/"):
        return parse_qs(parts.query).get("d", [address])[0]
    if "/data/upload/" in parts.path:
        name = parts.path.rpartition("/")[2]
        head, dash, rest = name.partition("-")
        is_prefix = dash and len(head) == 8 and set(head) <= set("0123456789abcdef")
        return rest if is_prefix else name
    return address


def spellings(name: str) -> list[str]:
    """Other ways in which the name of the same file may be written."""
    slashes = name.replace("\\", "/")
    return [unicodedata.normalize(form, slashes) for form in ("NFC", "NFD")]


def name_key(name: str) -> str:
    """What two spellings of one file name have in common."""
    return spellings(name)[0].removeprefix("./")


def shown(name: str) -> str:
    """A file name or other text as valid UTF-8 of a bounded length, for ids and messages."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return text if len(text) <= 200 else f"{text[:60]}... ({len(text):,} characters)"


def _read_member(member: Member) -> bytes:
    if member.size > MAX_BYTES:
        raise OSError(f"is larger than {MAX_BYTES >> 20} MiB")
    with member.tar.open("rb") as file:
        file.seek(member.offset)
        data = file.read(member.size)
    if len(data) < member.size:
        raise OSError("the tar file ends within it")
    return data
