"""Where a reward model's files lie: a folder, the weights file itself, or a repository of the hub.

Nothing is fetched unless a hub id is named, and then only the files that its loader reads. With
`HF_HUB_OFFLINE=1` the hub's cache alone is used.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tgo.rewards import weight_files
from tgo.rewards.errors import CheckpointError

_HUB = re.compile(
    r"(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*?)"
    r"(?:@(?P<revision>[\w.-]+))?"
    r"(?:/(?P<file>[\w.+-]+\.(?:pt|pth|bin|safetensors)))?"
)


@dataclass(frozen=True)
class Files:
    """The names of the files that a loader reads.

    `weights` are alternatives, the preferred one first; `needed` must lie beside them, `optional`
    may. Where `published` is set, that hub repository is the model's home.
    """

    weights: tuple[str, ...]
    needed: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    published: str | None = None


class HubId(NamedTuple):
    """`organisation/name[@revision][/file]`."""

    repo: str
    revision: str | None
    file: str | None


def hub_id(place: str | Path) -> HubId | None:
    """The hub id that `place` is, or None for a path.

    What exists on disk is a path, and so is whatever starts with a folder that exists: a mistyped
    `models/clpi` must not go out to the network.
    """
    if Path(place).exists():
        return None
    found = _HUB.fullmatch(str(place))
    if found is None or Path(found["repo"].split("/")[0]).exists():
        return None
    return HubId(found["repo"], found["revision"], found["file"])


class Source:
    """The files of one reward model, on this machine."""

    def __init__(self, place: str | Path, files: Files) -> None:
        """Fetches them if `place` is a hub id; raises CheckpointError if there is no such place."""
        hub = hub_id(place)
        self.repo = hub.repo if hub else None
        path = _fetch(hub, files) if hub else Path(place)
        if not path.exists():
            raise CheckpointError(
                f"{path}: no such file or folder; check the path, name a hub id, or build the "
                "checkpoint first"
            )
        self.folder = path if path.is_dir() else path.parent
        self._weights = None if path.is_dir() else path
        self._files = files

    def weights(self) -> Path:
        """The weights file: the one the place names, else the first of `Files.weights` there."""
        if self._weights is not None:
            return self._weights
        names = self._files.weights
        found = [self.folder / name for name in names if self.has(name)]
        if not found:
            raise CheckpointError(f"{self.folder}: holds no {' or '.join(names)}; add that file")
        return found[0]

    def has(self, name: str) -> bool:
        """Whether the folder has a file of this name."""
        return (self.folder / name).is_file()

    def missing(self) -> list[str]:
        """What lacks to load it: names of files, empty when all is there."""
        weights = self._weights is not None or any(self.has(name) for name in self._files.weights)
        wanted = [] if weights else [" or ".join(self._files.weights)]
        return wanted + [name for name in self._files.needed if not self.has(name)]

    def json(self, name: str) -> dict[str, Any]:
        """A configuration file of the folder; CheckpointError where it is no JSON object."""
        return weight_files.read_json(self.folder / name, "add the one of the checkpoint")


def _fetch(hub: HubId, files: Files) -> Path:
    """The snapshot's folder in the hub's cache, or the named file in it."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, HTTPError

    wanted = [hub.file or files.weights[0], *files.needed, *files.optional]
    try:
        folder = Path(snapshot_download(hub.repo, revision=hub.revision, allow_patterns=wanted))
    # the hub's answers are OSErrors; a connection that breaks off while a file comes is not
    except (OSError, HTTPError, HFValidationError) as error:
        reason = " ".join(str(error).split())[:160]
        raise CheckpointError(
            f"{hub.repo}: no file or folder of this name here, and the hub gives none ({reason}); "
            "check the name, the network (run again to resume a download) or, with "
            "HF_HUB_OFFLINE=1, the hub's cache"
        ) from None
    return folder / hub.file if hub.file else folder


def cached(place: str | Path, files: Files) -> Source | None:
    """The source as it lies on this machine, without asking the hub; None if it is not there."""
    hub = hub_id(place)
    if hub is None:
        return Source(place, files) if Path(place).exists() else None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = snapshot_download(hub.repo, revision=hub.revision, local_files_only=True)
    except LocalEntryNotFoundError:
        return None
    path = Path(folder) / hub.file if hub.file else Path(folder)
    return Source(path, files) if path.exists() else None
