"""Tar files in which the parts of a sample share a name: 0001.jpg, 0001.txt, 0001.json.

This is what img2dataset writes and the webdataset library reads. Members are found once, by their
headers; pictures are read later, where they lie.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tgo.pipeline.errors import InputError
from tgo.pipeline.read_errors import short
from tgo.pipeline.sources.pictures import Member
from tgo.pipeline.sources.table_rows import Record, Table
from tgo.pipeline.sources.tables import parse_json

IMAGE = "image"
"""The column of a sample's picture, whatever its ending."""
ENDINGS = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff")
_TEXTS = ("txt", "caption", "text")
_MAX_TEXT = 1 << 20


def read(tars: Sequence[Path]) -> Table:
    """The samples of some tar files in order, one a row.

    Columns are `__key__`, `image`, `txt` and the fields of the samples' JSON.

    Args:
        tars: the files, of which there is at least one.

    Returns:
        The table, named after the file or, of several, after the folder of the first.

    Raises:
        InputError: a file is no whole tar, or holds no picture.
    """
    records = [
        Record(number, values)
        for number, values in enumerate((v for tar in tars for v in _samples(tar)), start=1)
    ]
    if not any(IMAGE in (record.values or ()) for record in records):
        raise InputError(f"{tars[0]}: holds no pictures ({', '.join(ENDINGS)}) in samples")
    columns = dict.fromkeys(name for record in records for name in record.values or ())
    name = str(tars[0]) if len(tars) == 1 else str(tars[0].parent)
    return Table(name, "sample", list(columns), iter(records), fixed=False)


def _samples(tar: Path) -> Iterator[dict[str, Any]]:
    samples: dict[str, dict[str, Any]] = {}
    try:
        with tarfile.open(tar, "r:") as file:
            for member in file:
                key, dot, ending = _split(member.name)
                if member.isreg() and dot:
                    sample = samples.setdefault(key, {"__key__": key})
                    sample |= _part(tar, file, member, ending.lower())
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InputError(f"{tar}: is no whole tar file ({short(error)}); get it again") from None
    yield from samples.values()


def _split(name: str) -> tuple[str, str, str]:
    """A member's key and ending: all up to the first dot of its file name, and what follows."""
    folder, slash, file = name.rpartition("/")
    stem, dot, ending = file.partition(".")
    return f"{folder}{slash}{stem}", dot, ending


def _part(tar: Path, file: tarfile.TarFile, member: tarfile.TarInfo, ending: str) -> dict[str, Any]:
    if ending in ENDINGS:
        return {IMAGE: Member(tar, member.offset_data, member.size)}
    if member.size > _MAX_TEXT or ending not in (*_TEXTS, "json", "cls"):
        return {}
    reader = file.extractfile(member)
    text = reader.read().decode("utf-8", "replace") if reader else ""
    if ending == "json":
        fields = parse_json(text, f"{tar}, {member.name}")
        return dict(fields) if isinstance(fields, dict) else {}
    return {"txt" if ending in _TEXTS else ending: text.strip()}
