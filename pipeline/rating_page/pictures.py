"""The pictures of scored folders, one by one: where each lies, and what is known of it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq

from tgo.pipeline.errors import InputError
from tgo.pipeline.storage import shards
from tgo.pipeline.storage.atomic import replacing

FOLDER = "images"
"""Beside the answers: every picture that was shown, under the hash of its bytes."""


@dataclass(frozen=True)
class Picture:
    """A picture of a scored folder."""

    id: str
    prompt: str
    domain: str
    path: Path
    """The shard it lies in."""
    row_group: int
    row: int
    """Its place in the row group."""
    scores: dict[str, float] = field(default_factory=dict, compare=False)
    """By reward model, those that there are."""

    def read(self) -> bytes:
        """The stored image file; InputError if the shard is damaged."""
        table = shards.read_shard(self.path, ["image"], self.row_group)
        stored: bytes = table["image"][self.row].as_py()["bytes"]
        return stored


def read(folder: Path) -> list[Picture]:
    """All pictures of a scored folder that succeeded, in the order of its shards.

    Args:
        folder: A folder of scored shards; no picture is decoded.

    Returns:
        The pictures with their scores.

    Raises:
        InputError: the folder holds no shards, or no picture.
    """
    found = [picture for path in shards.shard_paths(folder) for picture in _of_shard(path)]
    if not found:
        raise InputError(f"{folder}: none of its images succeeded, so there is nothing to rate")
    return found


def _of_shard(path: Path) -> list[Picture]:
    rewards = [str(name) for name in shards.read_metadata(path).get("tgo.rewards", {})]
    columns = ["id", "prompt", "domain", "status", *rewards]
    return [
        Picture(
            id=row["id"],
            prompt=row["prompt"],
            domain=row["domain"],
            path=path,
            row_group=group,
            row=number,
            scores={name: row[name] for name in rewards if row[name] is not None},
        )
        for group in range(pq.read_metadata(path).num_row_groups)
        for number, row in enumerate(shards.read_shard(path, columns, group).to_pylist())
        if row["status"] == "ok"
    ]


def save(picture: Picture, folder: Path) -> str:
    """Copy a picture's file beside the answers, unless it is there.

    Args:
        picture: The picture.
        folder: The folder of answers.

    Returns:
        Its name there, relative to the folder. It tells nothing of the model that made it.
    """
    data = picture.read()
    name = f"{FOLDER}/{hashlib.sha256(data).hexdigest()[:20]}.png"
    if not (folder / name).exists():
        with replacing(folder / name) as file:
            file.write(data)
    return name


def by_prompt(pictures: Sequence[Picture]) -> dict[str, list[Picture]]:
    """The pictures of each prompt, prompts as they first come."""
    found: dict[str, list[Picture]] = {}
    for picture in pictures:
        found.setdefault(picture.prompt, []).append(picture)
    return found
