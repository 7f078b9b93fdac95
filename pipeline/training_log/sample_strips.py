"""Sample images of a training run on disk: one strip a step, the prompts side by side.

prompts.json          the prompts, their seeds and the sampler; of several sizes those of the images
step-00000100.png     the images after 100 steps, in the order of the prompts
result.json           the checksum of the model that the run led to, once it is there
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tgo.pipeline.errors import InputError
from tgo.pipeline.storage.atomic import replacing, write_json

FACTS = "prompts.json"
RESULT = "result.json"
_NAME = re.compile(r"step-(\d{8})\.png")  # files of other names are not ours


def describe(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write what the strips of ``folder`` show: ``prompts`` (texts, possibly none) and more.

    A run that goes on has led to no model yet: what ``belong_to`` recorded goes.
    """
    (folder / RESULT).unlink(missing_ok=True)
    write_json(folder / FACTS, facts)


def facts(folder: Path) -> dict[str, Any]:
    """What ``describe`` wrote; empty where there is nothing. InputError if it is damaged."""
    return _read(folder / FACTS)


def belong_to(folder: Path, model_sha256: str) -> None:
    """Record which model the run led to, so that its strips are shown beside no other."""
    write_json(folder / RESULT, {"model_sha256": model_sha256})


def result(folder: Path) -> str | None:
    """What ``belong_to`` recorded; None while the run goes on. InputError if it is damaged."""
    return _read(folder / RESULT).get("model_sha256")


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: is damaged ({error}); remove it") from None


def paths(folder: Path) -> list[tuple[int, Path]]:
    """(step, file) of all strips, oldest first."""
    found = ((_NAME.fullmatch(path.name), path) for path in sorted(folder.glob("step-*.png")))
    return [(int(name[1]), path) for name, path in found if name]


def write(folder: Path, step: int, images: Iterable[np.ndarray]) -> None:
    """Write the images uint8 ``[H, W, 3]`` of a step; the same bytes for the same images.

    Those that are less high than others have white below them.
    """
    row = list(images)
    height = max(len(image) for image in row)
    strip = [
        np.pad(image, ((0, height - len(image)), (0, 0), (0, 0)), constant_values=255)
        for image in row
    ]
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(strip, axis=1)).save(buffer, "PNG")
    with replacing(folder / f"step-{step:08d}.png") as file:
        file.write(buffer.getvalue())


def read(folder: Path) -> Iterator[tuple[int, list[np.ndarray]]]:
    """(step, images uint8 ``[H, W, 3]`` in the order of the prompts), oldest first.

    Raises InputError naming a strip that is damaged or is not of so many prompts.
    """
    known = facts(folder)
    count, sizes = len(known.get("prompts", ())), known.get("sizes")
    for step, path in paths(folder):
        try:
            with Image.open(path) as strip:
                pixels = np.asarray(strip.convert("RGB"))
            images = np.split(pixels, np.cumsum([w for w, _ in sizes])[:-1] if sizes else count, 1)
            if sizes:
                images = [image[:height] for image, (_, height) in zip(images, sizes, strict=True)]
        except (OSError, ValueError, ZeroDivisionError) as error:
            raise InputError(f"{path}: is damaged ({error}); remove it") from None
        yield step, images
