"""Which reward models there are: the five, those of installed packages, and a module by its path.

A package offers one by an entry point of the group `tgo.rewards` (`name = "package.module"`);
params.yaml names one by `module`. Either way the module has
`load(source, *, device, dtype, **options)`, which returns a `RewardModel`.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from tgo.rewards.base import RewardModel
from tgo.rewards.errors import CheckpointError

BUILT_IN = {
    "pickscore": "tgo.rewards.pickscore",
    "hpsv2": "tgo.rewards.hpsv2",
    "imagereward": "tgo.rewards.imagereward",
    "clip": "tgo.rewards.clip",
    "aesthetic": "tgo.rewards.aesthetic",
}
GROUP = "tgo.rewards"


@dataclass(frozen=True)
class Wanted:
    """One entry of `rewards` in params.yaml.

    `source` is a folder, file or hub id (models without a checkpoint need none); `module` a
    dotted name or the path of a .py file; `backend` "own", or "official" for the authors' package;
    `options` go to the module's `load`.
    """

    source: str = ""
    module: str | None = None
    backend: str = "own"
    options: Mapping[str, Any] = field(default_factory=dict)


def wanted(entry: str | Path | Mapping[str, Any] | Wanted) -> Wanted:
    """An entry that may be just the source."""
    if isinstance(entry, Wanted):
        return entry
    return Wanted(**entry) if isinstance(entry, Mapping) else Wanted(str(entry))


@cache
def available() -> dict[str, str]:
    """Modules by name: the five, then what installed packages offer under other names."""
    offered = {entry.name: entry.value for entry in entry_points(group=GROUP)}
    return BUILT_IN | {name: module for name, module in offered.items() if name not in BUILT_IN}


def module_of(name: str, module: str | None = None) -> ModuleType:
    """The module that loads `name`; raises CheckpointError if there is none.

    Entry points are looked up only for a name that is not one of the five.
    """
    found = module or BUILT_IN.get(name) or available().get(name)
    if found is None:
        raise CheckpointError(
            f"{name}: no such reward model; there are {', '.join(available())}. Name the module of "
            f"another one: {name}: {{module: path/to/{name}.py}}"
        )
    try:
        loaded = (
            _from_file(Path(found)) if found.endswith(".py") else importlib.import_module(found)
        )
    except ImportError as error:
        raise CheckpointError(
            f"{name}: module {found} cannot be imported ({error}); install its package, or name "
            "the path of its .py file"
        ) from error
    if not callable(getattr(loaded, "load", None)):
        raise CheckpointError(f"{name}: module {found} has no function load(source, device, dtype)")
    return loaded


def load(
    name: str,
    entry: str | Path | Mapping[str, Any] | Wanted,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    **given: Any,
) -> RewardModel:
    """One reward model by name; `given` are further arguments of its own loader.

    Raises CheckpointError, also for options that the loader does not take.
    """
    want = wanted(entry)
    if want.backend == "official":
        from tgo.rewards import official

        if want.options or want.module:
            raise CheckpointError(f"{name}: backend: official takes neither options nor a module")
        return official.load(name, want.source, device=device)
    if want.backend != "own":
        raise CheckpointError(f"{name}: backend is {want.backend!r}; there are own and official")
    module = module_of(name, want.module)
    try:
        return module.load(want.source, device=device, dtype=dtype, **want.options, **given)
    except TypeError as error:
        if not want.options:
            raise
        raise CheckpointError(f"{name}: options do not fit its loader ({error})") from error


def _from_file(path: Path) -> ModuleType:
    """A module from its file, registered under a name of its own, loaded once."""
    name = f"tgo_reward_{path.stem}"
    known = sys.modules.get(name)
    if known is not None and Path(str(known.__file__)) == path.resolve():
        return known
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None or not path.is_file():
        raise ImportError(f"{path}: no such file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
