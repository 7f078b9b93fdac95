"""`tgo rewards`: which reward models there are, where each comes from, and what is missing."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import NamedTuple

from tgo.pipeline.config.settings import Reward
from tgo.rewards import aesthetic, checkpoint, clip, hpsv2, imagereward, registry
from tgo.rewards.checksum import file_sha256
from tgo.rewards.errors import RewardError
from tgo.rewards.source import Files, Source, cached, hub_id

REFUSED = "refused"
"""Begins the state of weights that are here and would not be loaded."""
_PACKAGES = {"hpsv2": "hpsv2", "imagereward": "ImageReward"}


class Row(NamedTuple):
    """One reward model: who offers it, its source in params.yaml, and how that stands."""

    name: str
    offered: str
    source: str
    state: str

    @property
    def status(self) -> str:
        """The state in a word or two: ready, missing, refused, on the hub, not in params.yaml."""
        return self.state.partition(":")[0].partition(";")[0]


def rows(entries: Mapping[str, Reward]) -> list[Row]:
    """Every model that is installed or named in the settings; nothing is loaded or fetched."""
    names = list(dict.fromkeys([*entries, *registry.available()]))
    return [_row(name, entries.get(name)) for name in names]


def show(entries: Mapping[str, Reward]) -> None:
    """The same for a terminal: two lines a model, which 80 columns hold."""
    for row in rows(entries):
        print(f"{row.name}: {row.source} ({row.offered})")
        print(f"    {row.state}")


def _require_loadable(name: str, source: str, found: Source, digest: str) -> None:
    """The loaders' own look at a checksum, which weights of an unsaid architecture must have."""
    path = found.weights()
    if name == "hpsv2":
        hpsv2.architecture(found, path, digest)
    elif name == "imagereward":
        imagereward.vision_config(found, path, digest)
    elif name == "clip" and _repository(source) == clip.PUBLISHED:
        checkpoint.require_published(path, digest, clip.PUBLISHED, "name a folder of other weights")
    elif name == "aesthetic" and not found.has(aesthetic.CONFIG):
        remedy = f"put an {aesthetic.CONFIG} beside a head of your own"
        checkpoint.require_published(path, digest, aesthetic.WEIGHTS, remedy)


def _repository(source: str) -> str | None:
    place = hub_id(source)
    return None if place is None else place.repo


def _row(name: str, entry: Reward | None) -> Row:
    offered = _offered(name, entry)
    if entry is None:
        return Row(name, offered, "-", f"not in params.yaml{_home(name)}")
    try:
        state = _state(name, entry)
    except (RewardError, OSError) as error:
        state = f"missing: {error}"
    return Row(name, offered, entry.source or "-", state)


def _offered(name: str, entry: Reward | None) -> str:
    if entry is not None and entry.module is not None:
        return entry.module
    if entry is not None and entry.backend == "official":
        return f"the package {_PACKAGES.get(name, name)}"
    module = registry.available().get(name, "nobody")
    return "built in" if name in registry.BUILT_IN else module


def _home(name: str) -> str:
    files = getattr(registry.module_of(name), "FILES", None)
    return f"; published as {files.published}" if files and files.published else ""


def _state(name: str, entry: Reward) -> str:
    if entry.backend == "official" and find_spec(_PACKAGES.get(name, name)) is None:
        return f"missing: the package {_PACKAGES.get(name, name)}"
    files: Files | None = getattr(registry.module_of(name, entry.module), "FILES", None)
    if files is None or not entry.source:
        return "ready; needs no checkpoint"
    found = cached(entry.source, files)
    if found is None:
        if hub_id(entry.source):
            return "on the hub; fetched when first loaded"
        return f"missing: {entry.source}"
    if found.missing():
        return f"missing: {', '.join(found.missing())} in {found.folder}"
    return _identity(name, entry, found)


def _identity(name: str, entry: Reward, found: Source) -> str:
    """What the weights are; or why loading will refuse them."""
    path = found.weights()
    digest = file_sha256(path)
    if entry.backend == "own" and entry.module is None:
        try:
            _require_loadable(name, entry.source, found, digest)
        except RewardError as error:
            return f"{REFUSED}: {error}"
    known = {sha256: name for name, sha256 in checkpoint.PUBLISHED_SHA256.items()}
    of = known.get(digest, "no published file")
    return f"ready: {path}, {of}, sha256 {digest[:12]}"
