"""`tgo preset NAME`: fill params.yaml from presets/NAME.yaml, keeping its comments.

A preset that begins with `extends: world` starts from what params.yaml is shipped with, so that
nothing of an earlier preset stays.
"""

from __future__ import annotations

import copy
import difflib
import io
import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tgo.pipeline.config import settings
from tgo.pipeline.documents import read_yaml
from tgo.pipeline.errors import InputError
from tgo.pipeline.storage.atomic import replacing

EXTENDS = "extends"
_GAP_INSIDE = re.compile(r"\n\n+(?= )")
_GROUP_END = re.compile(r"^( .*|\S.*\})\n+(?=\S)", re.MULTILINE)
"""Where groups meet. A replaced value takes the empty line after it along, or leaves one behind."""
_PROCESSES = re.compile(r"--nproc-per-node (\d+)")
REPLACED = ("prompts.tests", "rewards", "label.reward", "score.tables")
"""Groups whose keys are names of one's own: a preset's take their place instead of joining them."""


def listed(presets: Path) -> Iterator[str]:
    """Every preset with the comment that its file begins with."""
    for path in sorted(presets.glob("*.yaml")):
        said = itertools.takewhile(
            lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines()
        )
        yield f"{path.stem}: {' '.join(line.lstrip('# ') for line in said)}"


def apply(name: str, presets: Path, params: Path, gpus: int | None = None) -> list[str]:
    """Write a preset's values over those of the settings file, which is checked before.

    Args:
        name: the preset.
        presets: the folder of presets.
        params: the settings file.
        gpus: cards of one machine: the launch commands are of so many, and a step is cut into as
            many parts as keep the images that a card holds at once. None takes the preset's.

    Returns:
        The changes as `key: old -> new`.

    Raises:
        InputError: naming the preset or key that is wrong, or a number of cards that does not
            divide the preset's batch.
    """
    path, layers = _layers(name, presets)

    def fill(values: Any) -> None:
        for layer in layers:
            _fill(values, layer, "")
        if gpus is not None:
            _set_gpus(values, gpus)

    return edit(params, fill, origin=str(path))


def edit(params: Path, change: Callable[[Any], None], origin: str) -> list[str]:
    """Change the settings file, which is checked before and after; its comments stay.

    Args:
        params: the settings file.
        change: is given the file's values and changes them in place.
        origin: where the new values come from, for errors.

    Returns:
        The changes as `key: old -> new`.

    Raises:
        InputError: the settings were wrong before, or would be; nothing is written then.
    """
    settings.load(params)
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096  # never wrap a line
    yaml.representer.add_representer(type(None), _null)
    values = yaml.load(params.read_text(encoding="utf-8"))
    before = copy.deepcopy(values)
    change(values)
    settings.validate(values, origin=origin)
    text = io.StringIO()
    yaml.dump(values, text)
    with replacing(params) as file:
        file.write(_GROUP_END.sub(r"\1\n\n", _GAP_INSIDE.sub("\n", text.getvalue())).encode())
    return list(_changes(before, values, ""))


def _set_gpus(values: Any, gpus: int) -> None:
    """Launch on so many cards, with as many images on each at once as before."""
    train, launch = values["train"], values["launch"]
    found = _PROCESSES.search(launch["train"])
    parts = train["gradient_accumulation_steps"] * (int(found[1]) if found else 1)
    if parts % gpus or train["batch_size"] % parts:
        raise InputError(
            f"--gpus {gpus}: a step of {train['batch_size']} images is made in {parts} parts of "
            f"{train['batch_size'] // parts}, which {gpus} cards cannot share; choose a divisor of "
            f"{parts}, or set train.batch_size and train.gradient_accumulation_steps by hand"
        )
    train["gradient_accumulation_steps"] = parts // gpus
    for stage in ("score", "train"):
        run = "" if gpus == 1 else f"torchrun --standalone --nproc-per-node {gpus} --no-python "
        launch[stage] = f"{run}tgo {stage}"


def _layers(name: str, presets: Path) -> tuple[Path, list[Mapping[str, Any]]]:
    """A preset's file, and what is to be filled in, first what it extends."""
    path = presets / f"{name}.yaml"
    if not path.is_file():
        known = sorted(found.stem for found in presets.glob("*.yaml"))
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known) or 'none'}"
        raise InputError(f"{path}: no such preset; {hint}")
    own = dict(_read(path))
    base = own.pop(EXTENDS, None)
    return path, [*(_layers(base, presets)[1] if base else ()), own]


def _read(path: Path) -> Mapping[str, Any]:
    """A preset's values, as they are written: `1.0e-5`, `{a: b}`."""
    found = read_yaml(path, "mend the preset")
    if not isinstance(found, Mapping):
        raise InputError(f"{path}: holds no settings; write `key: value` lines into it")
    written: Mapping[str, Any] = YAML().load(path.read_text(encoding="utf-8"))
    return written


def _fill(into: Any, preset: Mapping[str, Any], prefix: str) -> None:
    for key, value in preset.items():
        old = into.get(key)
        merged = isinstance(value, Mapping) and isinstance(old, Mapping)
        if merged and f"{prefix}{key}" not in REPLACED:
            _fill(old, value, f"{prefix}{key}.")
        elif old != value:
            into[key] = copy.deepcopy(value)


def _null(representer: Any, _: None) -> Any:
    """Nothing is written as null; an empty place looks like a slip."""
    return representer.represent_scalar("tag:yaml.org,2002:null", "null")


def _changes(old: Any, new: Any, key: str) -> Iterator[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping) and key not in REPLACED:
        for name in new:
            yield from _changes(old.get(name), new[name], f"{key}.{name}" if key else name)
    elif old != new:
        yield f"{key}: {_plain(old)} -> {_plain(new)}"


def _plain(value: Any) -> Any:
    """Without the classes of the YAML library."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value
