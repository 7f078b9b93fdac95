"""What a folder of scored shards should hold, what it does hold, and what may stay."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tgo.pipeline.errors import InputError
from tgo.pipeline.sources.prompts import Prompt
from tgo.pipeline.storage import embeddings, fingerprint, manifest, shards
from tgo.pipeline.storage.atomic import remove_partials
from tgo.pipeline.storage.shard_writer import Entry


@dataclass(frozen=True, eq=False)
class Planned:
    """One shard as it should become; `images` and `rewards` are its fingerprint."""

    path: Path
    embeddings: Path
    prompts: Sequence[Prompt]
    images: Mapping[str, Any]
    rewards: Mapping[str, Mapping[str, Any]]

    @property
    def number(self) -> int:
        """From 0."""
        return shards.index_of(self.path)


@dataclass(frozen=True)
class Found:
    """A planned shard whose images may stay: reward columns still right, embeddings intact."""

    rewards: frozenset[str]
    embeddings_intact: bool
    complete: bool


def plan(
    folder: Path,
    embeddings_folder: Path,
    prompts: Sequence[Prompt],
    per_shard: int,
    images: Mapping[str, Any],
    rewards: Mapping[str, Mapping[str, Any]],
) -> list[Planned]:
    """Shards of `per_shard` prompts each, the last with what remains."""
    parts = [prompts[start : start + per_shard] for start in range(0, len(prompts), per_shard)]
    paths = [folder / shards.shard_name(index, len(parts)) for index in range(len(parts))]
    return [
        Planned(
            path,
            embeddings.path_for(embeddings_folder, path),
            part,
            {**images, **fingerprint.prompts_part(part)},
            rewards,
        )
        for path, part in zip(paths, parts, strict=True)
    ]


def sweep(planned: Sequence[Planned], folder: Path) -> None:
    """Leave in `folder` only shards of this plan; hold the folder.

    All of it happens before anything is made, so stale and new shards never lie side by side. A
    shard made with other settings or code goes, and so does one beyond the plan; what is damaged
    or no shard of ours is set aside. The reason goes to stderr.
    """
    embeddings_folder = planned[0].embeddings.parent
    for place in (folder, embeddings_folder):
        remove_partials(place)
    _adopt(planned, folder)
    for shard in planned:
        if shard.path.exists():
            with set_aside_if_bad(shard.path):
                _check_fingerprint(shard)
    wanted = {shard.path for shard in planned}
    for path in sorted({*folder.glob("*.parquet")} - wanted):
        with set_aside_if_bad(path):
            recorded_of(path)
            raise StaleError(f"{path}: is beyond the plan of {len(planned)} shards; removed")
    names = {path.name for path in wanted}
    manifest.restrict(folder, names)
    embedded = {shard.embeddings for shard in planned}
    for path in embeddings_folder.glob("shard-*.safetensors"):
        if path not in embedded:
            path.unlink()


def inspect(shard: Planned, entry: Entry | None) -> Found | None:
    """What of a shard may stay, every byte checked; None if it is not there or not right."""
    if not shard.path.exists():
        return None
    with set_aside_if_bad(shard.path):
        metadata = _check_fingerprint(shard)
        check_bytes(shard.path, entry)
        recorded = metadata["tgo.fingerprint"]["rewards"]
        intact = embeddings.is_intact(shard.embeddings, metadata["tgo.embeddings"]["sha256"])
        right = frozenset(
            name for name, part in shard.rewards.items() if recorded.get(name) == part
        )
        return Found(right, intact, complete=intact and recorded == shard.rewards)
    return None


def aside(folder: Path) -> Path:
    """Where shards of `folder` lie that were set aside; beside it, since they are not its data."""
    return folder.parent / f".{folder.name}.aside"


class StaleError(Exception):
    """A shard of ours that is whole, but not wanted any more; the text says why."""


@contextmanager
def set_aside_if_bad(path: Path) -> Iterator[None]:
    """Remove a stale shard, move a bad one out of the folder; say which and why on stderr."""
    try:
        yield
    except StaleError as reason:
        path.unlink()
        print(reason, file=sys.stderr)
    except InputError as reason:
        target = _free_name(aside(path.parent), path.name)
        target.parent.mkdir(exist_ok=True)
        path.replace(target)
        print(f"{reason}; set aside as {target}", file=sys.stderr)


def _free_name(folder: Path, name: str) -> Path:
    return next(
        path for number in itertools.count(1) if not (path := folder / f"{name}.{number}").exists()
    )


def _adopt(planned: Sequence[Planned], folder: Path) -> None:
    """Give shards made for another number of shards their new names: images do not depend on it."""
    for path in shards.present(folder):
        index = shards.index_of(path)
        if index < len(planned) and not planned[index].path.exists():
            target = planned[index]
            old = embeddings.path_for(target.embeddings.parent, path)
            if old.exists():
                old.replace(target.embeddings)
            path.replace(target.path)


def _check_fingerprint(shard: Planned) -> dict[str, Any]:
    """The metadata of a shard with the plan's images; raises StaleError or InputError."""
    metadata = recorded_of(shard.path)
    change = fingerprint.difference(metadata["tgo.fingerprint"]["images"], dict(shard.images))
    if change:
        raise StaleError(f"{shard.path}: {change}; made anew")
    return metadata


def recorded_of(path: Path) -> dict[str, Any]:
    """The metadata of a shard; InputError if it is damaged or no shard of ours."""
    metadata = shards.read_metadata(path)
    if not {"tgo.fingerprint", "tgo.embeddings"} <= metadata.keys():
        raise InputError(f"{path}: is not a shard of this program")
    return metadata


def check_bytes(path: Path, entry: Entry | None) -> None:
    """By the manifest's sha256; a shard not yet in it by the checksums of its pages."""
    if entry is None:
        shards.read_shard(path)
    elif manifest.entry(path) != entry:
        raise InputError(f"{path}: its bytes are not those of the manifest")
