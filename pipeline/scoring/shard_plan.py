"""What a folder of scored shards should hold, what it does hold, and what may stay.

Nothing that may have cost hours is removed: a shard of other settings is set aside under its
fingerprint and taken back when the settings come back (`storage/aside.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tgo.pipeline.errors import DamagedError, InputError
from tgo.pipeline.generators.sizes import Size, choose
from tgo.pipeline.sources.prompts import Prompt
from tgo.pipeline.storage import aside, embeddings, fingerprint, manifest, shards
from tgo.pipeline.storage.atomic import remove_partials
from tgo.pipeline.storage.shard_writer import Entry

log = logging.getLogger(__name__)
_ROWS = ("prompts", "rows")
"""The parts of an image fingerprint that differ from shard to shard of one run."""


class Planned(Protocol):
    """A shard as it should become: its two files, and what decides its images."""

    @property
    def path(self) -> Path: ...

    @property
    def embeddings(self) -> Path: ...

    @property
    def images(self) -> Mapping[str, Any]:
        """The image part of its fingerprint."""
        ...


@dataclass(frozen=True, eq=False)
class PlannedShard:
    """A shard to be generated; `images` and `rewards` are the two parts of its fingerprint."""

    path: Path
    embeddings: Path
    prompts: Sequence[Prompt]
    images: Mapping[str, Any]
    rewards: Mapping[str, Mapping[str, Any]]
    size: Size
    """That of all its images."""

    @property
    def number(self) -> int:
        """From 0."""
        return shards.index_of(self.path)


@dataclass(frozen=True)
class ShardState:
    """A planned shard whose images may stay: reward columns still right, embeddings intact."""

    rewards: frozenset[str]
    embeddings_intact: bool
    complete: bool


class ForeignError(InputError):
    """A Parquet file that this program did not write."""


def plan_shards(
    folder: Path,
    embeddings_folder: Path,
    prompts: Sequence[Prompt],
    per_shard: int,
    images: Mapping[str, Any],
    rewards: Mapping[str, Mapping[str, Any]],
    shapes: Mapping[Size, tuple[int, ...]],
) -> list[PlannedShard]:
    """Shards of `per_shard` prompts each, the last of each size with what remains.

    `shapes` are those of latents by size of image; `images` says nothing of them.
    """
    parts = split(prompts, per_shard, list(shapes))
    several = len(shapes) > 1
    paths = [folder / shards.shard_name(index, len(parts)) for index in range(len(parts))]
    return [
        PlannedShard(
            path,
            embeddings.path_for(embeddings_folder, path),
            part,
            fingerprint.of_shape(images, shapes[size], several_sizes=several)
            | fingerprint.prompts_part(part),
            rewards,
            size,
        )
        for path, (size, part) in zip(paths, parts, strict=True)
    ]


def split(
    prompts: Sequence[Prompt], per_shard: int, sizes: Sequence[Size]
) -> list[tuple[Size, list[Prompt]]]:
    """The prompts of each shard and the size of their images, size after size."""
    chosen: dict[Size, list[Prompt]] = {size: [] for size in sizes}
    for prompt in prompts:
        chosen[choose(prompt.id, sizes, prompt.size)].append(prompt)
    return [
        (size, some[start : start + per_shard])
        for size, some in chosen.items()
        for start in range(0, len(some), per_shard)
    ]


def reconcile(planned: Sequence[Planned], folder: Path) -> None:
    """Leave in `folder` only shards of this plan, and take back those that were set aside.

    All of it happens before anything is made, so that shards of two plans never lie side by side.
    The caller holds the folder's lock. What was set aside is logged with its reason.

    Args:
        planned: The run's shards.
        folder: The folder of scored shards.

    Raises:
        InputError: a file cannot be read just now; nothing was moved because of it.
    """
    embeddings_folder = planned[0].embeddings.parent
    for each in (folder, embeddings_folder):
        remove_partials(each)
    wanted = {shard.path: shard for shard in planned}
    for path in sorted(folder.glob("*.parquet")):
        _keep_or_set_aside(path, wanted.get(path), planned)
    lacking = [shard for shard in planned if not shard.path.exists()]
    # what the manifest says of these names is of shards that lay there before
    manifest.restrict(folder, {path.name for path in wanted} - {s.path.name for s in lacking})
    for shard in lacking:
        _take_back(shard, folder)
    embedded = {shard.embeddings for shard in planned}
    for path in embeddings_folder.glob("shard-*.safetensors"):
        if path not in embedded and shards.is_name(f"{path.stem}.parquet"):
            path.unlink()  # of a shard that was never finished


def inspect_shard(shard: PlannedShard, entry: Entry | None) -> ShardState | None:
    """What of a shard may stay, every byte checked.

    Args:
        shard: The plan.
        entry: What the manifest says of it, if anything.

    Returns:
        None if it is not there, or was damaged and has been set aside.

    Raises:
        InputError: a file cannot be read just now.
    """
    if not shard.path.exists():
        return None
    try:
        metadata = read_own_metadata(shard.path)
        check_bytes(shard.path, entry)
    except (DamagedError, ForeignError) as error:
        set_damaged_aside(shard.path, error)
        return None
    recorded = metadata["tgo.fingerprint"]["rewards"]
    intact = embeddings.is_intact(shard.embeddings, metadata["tgo.embeddings"]["sha256"])
    right = frozenset(name for name, part in shard.rewards.items() if recorded.get(name) == part)
    return ShardState(right, intact, complete=intact and recorded == shard.rewards)


def read_own_metadata(path: Path) -> dict[str, Any]:
    """Read the metadata of a shard of this program.

    Args:
        path: The shard.

    Returns:
        Its metadata by key, with the fingerprint and the checksum of its embeddings.

    Raises:
        InputError: it cannot be read; a DamagedError where its content is at fault, a ForeignError
            where it is no shard of this program.
    """
    metadata = shards.read_metadata(path)
    if not metadata:
        raise ForeignError(f"{path}: is not a shard of this program")
    identity, embedded = metadata.get("tgo.fingerprint"), metadata.get("tgo.embeddings")
    if not (_has(identity, "images", "rewards") and _has(embedded, "sha256")):
        raise DamagedError(f"{path}: has no whole fingerprint")
    return metadata


def check_bytes(path: Path, entry: Entry | None) -> None:
    """Check a shard by the manifest's sha256, or by the checksums of its pages.

    Args:
        path: The shard.
        entry: The manifest's entry of it; None reads the whole shard and checks its pages.

    Raises:
        DamagedError: its bytes are not those that were written.
    """
    if entry is None:
        shards.read_shard(path)
    elif manifest.entry(path) != entry:
        raise DamagedError(f"{path}: its bytes are not those of the manifest")


def set_damaged_aside(path: Path, error: InputError) -> None:
    """Move a damaged or foreign file out of its folder and say so."""
    ours = shards.is_name(path.name) and not isinstance(error, ForeignError)
    kind: aside.Kind = "damaged" if ours else "foreign"
    target = aside.set_aside([path], path.parent, str(error), kind=kind)
    log.warning("%s; set aside as %s", error, target / path.name)


def _has(value: Any, *keys: str) -> bool:
    return isinstance(value, Mapping) and value.keys() >= set(keys)


def _keep_or_set_aside(path: Path, wanted: Planned | None, planned: Sequence[Planned]) -> None:
    try:
        metadata = read_own_metadata(path)
    except (DamagedError, ForeignError) as error:
        set_damaged_aside(path, error)
        return
    recorded = metadata["tgo.fingerprint"]["images"]
    if wanted is not None and recorded == wanted.images:
        return
    change = _reason(recorded, wanted, planned)
    embedded = embeddings.path_for(planned[0].embeddings.parent, path)
    target = aside.set_aside(
        [path, embedded], path.parent, change, kind="superseded", key=aside.key_of(recorded)
    )
    if all(aside.key_of(recorded) != aside.key_of(shard.images) for shard in planned):
        log.warning("%s: %s; set aside in %s", path, change, target)


def _reason(recorded: Mapping[str, Any], wanted: Planned | None, planned: Sequence[Planned]) -> str:
    """Why a shard does not belong to a plan: a setting if one differs, else its prompts."""
    images = (wanted or planned[0]).images
    settings = {key: value for key, value in images.items() if key not in _ROWS}
    change = fingerprint.difference(
        {**recorded, **dict.fromkeys(_ROWS)}, {**settings, **dict.fromkeys(_ROWS)}
    )
    if change is None and wanted is not None:
        change = fingerprint.difference(recorded, dict(images))
    return change or f"is beyond the plan of {len(planned)} shards"


def _take_back(shard: Planned, folder: Path) -> None:
    """Give a planned shard the file that was set aside under its fingerprint, if there is one."""
    entry = aside.find(folder, aside.key_of(shard.images))
    if entry is None:
        return
    for name in sorted(entry.names, key=lambda name: name.endswith(".parquet")):  # that one last
        if (entry.folder / name).exists():
            target = shard.path if name.endswith(".parquet") else shard.embeddings
            aside.take_back(entry, name, target)
