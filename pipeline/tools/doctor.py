"""`tgo doctor`: what this machine has and lacks for the settings at hand."""

from __future__ import annotations

import locale
import platform
import shutil
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from tgo.pipeline.config.settings import Settings
from tgo.pipeline.generators import quantization
from tgo.pipeline.installation import EXTRAS, PROJECT
from tgo.pipeline.tools import fetch, preflight
from tgo.pipeline.wording import size

LITTLE_SPACE = 5e9
"""Free bytes below which a run of real models is likely to stop."""


class Line(NamedTuple):
    """Something that was looked at; `state` is ok, note or MISSING."""

    state: str
    text: str


def look(settings: Settings) -> Iterator[Line]:
    """Everything that a run needs of the machine, in the order in which it is needed.

    Args:
        settings: what is going to be run.

    Yields:
        Line: one fact; MISSING where a stage would stop for it.
    """
    yield Line("ok", f"Python {platform.python_version()} on {platform.platform()}")
    if locale.getpreferredencoding(False).lower().replace("-", "") != "utf8" and not (
        sys.flags.utf8_mode
    ):
        yield Line("note", "the locale is not UTF-8; set LANG=C.UTF-8 for prompts in print")
    yield _device(settings)
    yield from _packages(settings)
    free = shutil.disk_usage(".").free
    state = "note" if free < LITTLE_SPACE else "ok"
    yield Line(state, f"disk: {size(free)} free in {Path().resolve().name}; `tgo plan` says how "
               "much a run stores")  # fmt: skip
    found, lost = fetch.missing(settings)
    for item in found:
        if item.at_first_use:
            yield Line("note", f"{item} is not here yet; `tgo fetch` brings it, or its first use")
        else:
            yield Line("MISSING", f"{item}; `tgo fetch` brings it")
    for text in lost:
        yield Line("MISSING", text)
    if not found and not lost:
        yield Line("ok", "models, reward models and prompt lists of params.yaml are here")
    for problem in preflight.problems(settings):
        yield Line("MISSING", problem)
    yield from _code(settings)


def _device(settings: Settings) -> Line:
    import torch

    if torch.cuda.is_available():
        found = torch.cuda.get_device_properties(0)
        count = torch.cuda.device_count()
        return Line("ok", f"{count} GPU: {found.name}, {size(found.total_memory)} each")
    if settings.device == "cuda":
        return Line("MISSING", "device: cuda, but torch sees no GPU; set device to cpu or auto")
    return Line("ok", f"no GPU; torch {torch.__version__} computes on the CPU")


def _packages(settings: Settings) -> Iterator[Line]:
    """What the settings need but for loggers, which `preflight` looks for."""
    wanted = {name: "dvc repro and the report" for name in PROJECT if name != "tensorboard"}
    if settings.engine == "ray":
        wanted["ray"] = "engine: ray"
    if settings.generator.quantization:
        package = quantization.PACKAGES[settings.generator.quantization]
        wanted[package] = f"generator.quantization: {settings.generator.quantization}"
    if settings.train.optimizer == "adamw8bit":
        wanted["bitsandbytes"] = "train.optimizer: adamw8bit"
    absent = {package: why for package, why in wanted.items() if find_spec(package) is None}
    for package, why in absent.items():
        yield Line("MISSING", f"{package}, for {why}: pip install 'tgo[{EXTRAS[package]}]'")
    if not absent:
        yield Line("ok", f"packages: {', '.join(wanted)}")


def _code(settings: Settings) -> Iterator[Line]:
    """Settings that name code, which runs with the user's rights."""
    named = {
        f"rewards.{name}.module": entry.module
        for name, entry in settings.rewards.items()
        if entry.module and not entry.module.startswith("tgo.")
    }
    judge = settings.evaluate.judge
    if judge and not judge.startswith("tgo."):
        named["evaluate.judge"] = judge
    for key, module in named.items():
        yield Line("note", f"{key} = {module}: its code runs with your rights; look at it if this "
                   "project was not made by you")  # fmt: skip
