"""Folders of good and bad pictures: good/0001.png with its prompt in good/0001.txt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tgo.pipeline.errors import InputError
from tgo.pipeline.sources import tables
from tgo.pipeline.sources.image_table import Source, natural_key
from tgo.pipeline.sources.pictures import shown
from tgo.pipeline.sources.rating_rows import Rating
from tgo.pipeline.sources.rating_values import NO, YES
from tgo.pipeline.sources.samples import read_prompts
from tgo.pipeline.sources.webdataset import ENDINGS

_PROMPTS = ("prompts.csv", "prompts.tsv", "prompts.jsonl")


@dataclass(frozen=True)
class Classes:
    """The subfolders of a folder that say what their pictures are worth."""

    folder: Path
    values: dict[str, float]

    def __str__(self) -> str:
        return " and ".join(f"{name} ({value:g})" for name, value in self.values.items())


def find(source: Source) -> Classes | None:
    """The classes of a folder whose subfolders are named good and bad, or as --labels says."""
    folder = Path(source.name)
    if source.format not in (None, "folders") or not folder.is_dir():
        return None
    labels = {name.casefold(): value for name, value in source.labels.items()}
    values = {}
    for path in sorted(folder.iterdir()):
        word = path.name.casefold().replace("_", " ").replace("-", " ")
        if path.is_dir() and (word in labels or word in YES or word in NO):
            values[path.name] = labels.get(word, float(word in YES))
    return Classes(folder, values) if len(set(values.values())) > 1 else None


def read(source: Source, classes: Classes) -> Iterator[Rating]:
    """A rating for every picture in the classes' folders.

    Args:
        source: the folder that holds the classes.
        classes: its subfolders, and what their pictures are worth.

    Yields:
        Rating: one a picture; the classes in order and in each the files by name (2.png before
        10.png).

    Raises:
        InputError: a picture has no prompt, neither in a text beside it nor in prompts.csv.
    """
    prompts = _prompts(classes.folder)
    for name, value in classes.values.items():
        for path in sorted((classes.folder / name).rglob("*"), key=natural_key):
            if path.suffix.lower().removeprefix(".") not in ENDINGS:
                continue
            key = path.relative_to(classes.folder).as_posix()
            text = path.with_suffix(".txt")
            prompt = prompts.get(key) or prompts.get(path.name)
            if prompt is None and text.is_file():
                prompt = "".join(tables.read_lines(str(text))).strip()
            if not prompt:
                raise InputError(
                    f"{path}: has no prompt; write it into {text.name} beside it, or into "
                    f"{classes.folder}/prompts.csv under file_name and prompt"
                )
            yield Rating(shown(key), prompt, value, path)


def _prompts(folder: Path) -> dict[str, str]:
    """Prompts by file name from a table in the folder, if there is one."""
    path = next((folder / name for name in _PROMPTS if (folder / name).is_file()), None)
    return read_prompts(path, ()) if path else {}
