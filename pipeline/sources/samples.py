"""What `tgo score-images` scores: pictures with their prompts, from a folder or any table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tgo.pipeline.errors import InputError
from tgo.pipeline.sources import tables
from tgo.pipeline.sources.image_table import NAMES, ImageTable, Source, natural_key
from tgo.pipeline.sources.pictures import Location, Member, Pictures, name_key, shown
from tgo.pipeline.sources.table_rows import Table

_FILES = (*NAMES["image"], "id")


class Sample(NamedTuple):
    """One row: a name that stays the same between runs, a prompt if there is one, a picture."""

    id: str
    prompt: str | None
    location: Location


class Samples:
    """Rows to be scored, in a fixed order."""

    def __init__(self, rows: Sequence[Sample], pictures: Pictures) -> None:
        self._rows, self._pictures = rows, pictures

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        return self._rows[index]

    def image(self, index: int) -> bytes:
        """The encoded picture; OSError if it cannot be had."""
        return self._pictures.read(self._rows[index].location)

    def stamp(self, index: int) -> Any:
        """A JSON value that changes when the picture does."""
        location = self._rows[index].location
        path = location.tar if isinstance(location, Member) else location
        if not isinstance(path, Path):
            return [str(getattr(self._pictures.rows, "_fingerprint", "")), str(location)]
        try:
            status = path.stat()
        except (OSError, ValueError):
            return None
        offset = location.offset if isinstance(location, Member) else 0
        return [status.st_size, status.st_mtime_ns, offset]


def open_samples(source: Source, prompts: Path | None) -> Samples:
    """Pictures to score.

    Args:
        source: A folder of pictures with `prompts`; else whatever `ImageTable` reads.
        prompts: A .jsonl, .csv or .tsv file with a file name and a prompt a row, or a .txt with
            one prompt a line, in the order of the files' names (2.png before 10.png).

    Returns:
        The pictures and their prompts.

    Raises:
        InputError: nothing there can be read, or prompts and files do not go together.
    """
    if prompts is None:
        return _of_table(ImageTable(source))
    if not Path(source.name).is_dir():
        raise InputError(f"{source.name}: no such folder; --prompts goes with a folder of images")
    return _of_folder(source, prompts)


def _of_table(table: ImageTable) -> Samples:
    image, prompt, identity = (table.column(key, NAMES[key]) for key in ("image", "prompt", "id"))
    if image is None or prompt is None:
        raise table.no_column("image" if image is None else "prompt")
    table.use_pictures([image])
    named = image not in table.picture_columns
    rows = []
    for number, values in table.records([prompt]):
        if values is None:
            continue
        own = values.get(identity or "") if identity != image else None
        if own in (None, ""):
            own = table.key_of(number, values, image) if named else f"{number - 1:08d}"
        text = values.get(prompt)
        text = text[0] if isinstance(text, list) and len(text) == 1 else text
        usable = isinstance(text, str) and bool(text.strip())
        rows.append(
            Sample(shown(str(own)), text if usable else None, table.locate(number, values, image))
        )
    if not rows:
        raise InputError(f"{table.name}: holds no rows; name a table of pictures with prompts")
    return Samples(rows, table.pictures)


def _of_folder(source: Source, prompts: Path) -> Samples:
    """Every file of a folder and the folders in it, hidden ones apart, in natural order."""
    folder, here = Path(source.name), prompts.resolve()
    paths = [
        path
        for path in folder.rglob("*")
        if not path.is_dir()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.absolute() != here
    ]
    paths = sorted(paths, key=lambda path: natural_key(path.relative_to(folder)))
    if not paths:
        raise InputError(f"{folder}: holds no files; name the folder of the images")
    names = [shown(path.relative_to(folder).as_posix()) for path in paths]
    texts = {name_key(name): text for name, text in read_prompts(prompts, names).items()}
    absent = sorted(texts.keys() - {name_key(name) for name in names})
    if absent:
        raise InputError(
            f"{prompts}: names {absent[0]}, which is not in {folder}; correct the name, it is "
            "relative to the folder"
        )
    rows = [
        Sample(name, texts.get(name_key(name)), path)
        for name, path in zip(names, paths, strict=True)
    ]
    return Samples(rows, Pictures(folder=None if source.outside else folder))


def read_prompts(path: Path, names: Sequence[str]) -> dict[str, str]:
    """Read a list of prompts; those of a .txt belong to `names` in order.

    Args:
        path: The .jsonl, .csv, .tsv or .txt file.
        names: The pictures' file names in order.

    Returns:
        Prompts by file name.

    Raises:
        InputError: naming file and row for what is no list of prompts.
    """
    kind = tables.format_of(str(path))
    if kind == "hub":
        raise InputError(f"{path}: not a list of prompts; name a .jsonl, .csv, .tsv or .txt file")
    if kind == "text":
        lines = [line.rstrip("\r\n") for line in tables.read_lines(str(path))]
        if len(lines) != len(names):
            raise InputError(
                f"{path}: has {len(lines)} lines for {len(names)} files; write one prompt a file, "
                "in the order of their names, or a .jsonl or .csv with names"
            )
        return dict(zip(names, lines, strict=True))
    return _by_name(tables.read(str(path)))


def _by_name(table: Table) -> dict[str, str]:
    prompts: dict[str, str] = {}
    for number, values in table.records:
        if values is None:
            continue
        name, text = _value(values, _FILES), _value(values, NAMES["prompt"])
        if not isinstance(name, str) or not isinstance(text, str):
            raise InputError(
                f"{table.where(number)}: needs a file name under one of {', '.join(_FILES)} and a "
                f"text under one of {', '.join(NAMES['prompt'])}"
            )
        if name in prompts:
            raise InputError(f"{table.where(number)}: names {name} a second time")
        prompts[name] = text
    return prompts


def _value(values: Mapping[str, Any], names: Sequence[str]) -> Any:
    by_name = {name.lower(): value for name, value in values.items()}
    return next((by_name[name] for name in names if name in by_name), None)
