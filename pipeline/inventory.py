"""What a folder of scored shards should hold, what it does hold, and what may stay."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import embeddings, fingerprint, manifest, shards
from pipeline.errors import InputError
from pipeline.prompts import Prompt


@dataclass(frozen=True, eq=False)
class Planned:
    """One shard as it should become; `images` and `rewards` are its fingerprint."""

    path: Path
    embeddings: Path
    prompts: Sequence[Prompt]
    images: Mapping[str, Any]
    rewards: Mapping[str, Mapping[str, Any]]


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


def survey(planned: Sequence[Planned], folder: Path) -> dict[Path, Found]:
    """Remove every shard that is damaged, stale or beyond the plan; return what may stay.

    All of it happens before anything is made, so stale and new shards never lie side by side.
    The reason for each removal goes to stderr.
    """
    _adopt(planned, folder)
    known = manifest.read(folder)
    found = {}
    for shard in planned:
        if not shard.path.exists():
            continue
        try:
            found[shard.path] = _inspect(shard, known.get(shard.path.name))
        except InputError as reason:
            remove(shard.path, str(reason))
    wanted = {shard.path for shard in planned}
    for path in shards.present(folder):
        if path not in wanted:
            remove(path, f"{path}: is beyond the plan of {len(planned)} shards; removed")
    _remove_embeddings(planned)
    return found


def remove(path: Path, reason: str) -> None:
    """Remove a shard and say why."""
    print(reason, file=sys.stderr)
    path.unlink()


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


def _inspect(shard: Planned, entry: manifest.Entry | None) -> Found:
    """What of a shard may stay; InputError with the reason if nothing may."""
    metadata = shards.read_metadata(shard.path)
    recorded = metadata.get("tgo.fingerprint")
    if not recorded or "tgo.embeddings" not in metadata:
        raise InputError(f"{shard.path}: is not a shard of this program; made anew")
    change = fingerprint.difference(recorded["images"], dict(shard.images))
    if change:
        raise InputError(f"{shard.path}: {change}; made anew")
    _check_bytes(shard.path, entry)
    intact = embeddings.is_intact(shard.embeddings, metadata["tgo.embeddings"]["sha256"])
    right = frozenset(
        name for name, part in shard.rewards.items() if recorded["rewards"].get(name) == part
    )
    complete = intact and recorded["rewards"] == shard.rewards
    return Found(right, intact, complete)


def _check_bytes(path: Path, entry: manifest.Entry | None) -> None:
    """By the manifest's sha256; a shard not yet in it by the checksums of its pages."""
    if entry is None:
        shards.read_shard(path)
    elif manifest.entry(path) != entry:
        raise InputError(f"{path}: its bytes are not those of the manifest; made anew")


def _remove_embeddings(planned: Sequence[Planned]) -> None:
    wanted = {shard.embeddings for shard in planned}
    for path in planned[0].embeddings.parent.glob("shard-*.safetensors"):
        if path not in wanted:
            path.unlink()
