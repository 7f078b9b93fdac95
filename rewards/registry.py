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
from typing import TYPE_CHECKING, Any

from tgo.rewards.errors import CheckpointError, Stopped

if TYPE_CHECKING:
    import torch

    from tgo.rewards.base import RewardModel

BUILT_IN = {
    "pickscore": "tgo.rewards.pickscore",
    "hpsv2": "tgo.rewards.hpsv2",
    "imagereward": "tgo.rewards.imagereward",
    "clip": "tgo.rewards.clip",
    "aesthetic": "tgo.rewards.aesthetic",
}
GROUP = "tgo.rewards"


@dataclass(frozen=True)
class RewardSpec:
    """One entry of `rewards` in params.yaml.

    `source` is a folder, file or hub id (models without a checkpoint need none); `module` a
    dotted name or the path of a .py file; `backend` "own", or "official" for the authors' package;
    `options` go to the module's `load`.
    """

    source: str = ""
    module: str | None = None
    backend: str = "own"
    options: Mapping[str, Any] = field(default_factory=dict)


def as_spec(entry: str | Path | Mapping[str, Any] | RewardSpec) -> RewardSpec:
    """An entry that may be just the source."""
    if isinstance(entry, RewardSpec):
        return entry
    return RewardSpec(**entry) if isinstance(entry, Mapping) else RewardSpec(str(entry))


def is_known(name: str) -> bool:
    """Whether `name` is one of the five or offered by an installed package."""
    return name in BUILT_IN or name in available()


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
    except Stopped:
        raise
    except SystemExit as error:
        raise _exits(name, found, error) from error
    except (ImportError, SyntaxError) as error:
        raise CheckpointError(
            f"{name}: module {found} cannot be imported ({error}); install its package, or name "
            "the path of its .py file"
        ) from error
    if not callable(getattr(loaded, "load", None)):
        raise CheckpointError(f"{name}: module {found} has no function load(source, device, dtype)")
    return loaded


def load(
    name: str,
    entry: str | Path | Mapping[str, Any] | RewardSpec,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    **given: Any,
) -> RewardModel:
    """One reward model by name; `given` are further arguments of its own loader.

    Raises CheckpointError, also for options that the loader does not take.
    """
    spec = as_spec(entry)
    if spec.backend == "official":
        from tgo.rewards import official

        if spec.options or spec.module:
            raise CheckpointError(f"{name}: backend: official takes neither options nor a module")
        return official.load(name, spec.source, device=device)
    if spec.backend != "own":
        raise CheckpointError(f"{name}: backend is {spec.backend!r}; there are own and official")
    import torch

    module = module_of(name, spec.module)
    options = {"device": device, "dtype": dtype or torch.float32, **spec.options, **given}
    try:
        model = module.load(spec.source, **options)
    except Stopped:
        raise
    except SystemExit as error:
        raise _exits(name, module.__name__, error) from error
    except TypeError as error:
        if not spec.options:
            raise
        raise CheckpointError(f"{name}: options do not fit its loader ({error})") from error
    if not callable(getattr(model, "score", None)):
        raise CheckpointError(
            f"{name}: load() of {module.__name__} returned {type(model).__name__}, not a reward "
            "model with a method score(batch)"
        )
    return model


def _exits(name: str, module: str, error: SystemExit) -> CheckpointError:
    return CheckpointError(
        f"{name}: {module} calls sys.exit({error.code!r}); raise an exception in its place"
    )


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
