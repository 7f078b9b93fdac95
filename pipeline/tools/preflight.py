"""What a later stage would refuse, found by a look: no model is loaded and nothing is fetched."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from tgo.pipeline import layout
from tgo.pipeline.config import columns
from tgo.pipeline.config.label_settings import GLOBAL, PROMPT, RATING
from tgo.pipeline.config.objectives import unequal_parts
from tgo.pipeline.config.prompt_settings import PromptSet
from tgo.pipeline.config.settings import Settings
from tgo.pipeline.documents import read_json
from tgo.pipeline.errors import InputError
from tgo.pipeline.generators import FEW_STEP_ADVICE, MASKED, PIPELINES
from tgo.pipeline.generators.base_model import adapted_model
from tgo.pipeline.installation import EXTRAS
from tgo.pipeline.runtime import require_compiler
from tgo.pipeline.storage import origin, shards
from tgo.pipeline.tools import costs
from tgo.rewards.errors import RewardError

_CPU = Path("/proc/cpuinfo")
Check = Callable[[Settings], object]
_OPTIONAL = ("safety_checker", "feature_extractor", "image_encoder")
"""Parts that no stage loads."""


def problems(settings: Settings) -> Iterator[str]:
    """What would stop a stage.

    Args:
        settings: those of the run.

    Yields:
        str: a line for each, as the stage would say it.
    """
    checks = (
        *(_model, _masked, *_prompt_checks(settings), _judge, _rewards, _tables, _scope, _files),
        *(_loggers, _packages, _compiler, _processes),
    )
    for check in checks:
        try:
            check(settings)
        except (InputError, RewardError) as error:
            yield str(error)


def notes(settings: Settings) -> Iterator[str]:
    """What no stage refuses, and is likely to disappoint.

    Args:
        settings: those of the run.

    Yields:
        str: a line for each.
    """
    keys = {
        "generator.dtype": settings.generator.dtype,
        "train.precision": settings.train.precision,
    }
    slow = [key for key, value in keys.items() if value == "bfloat16"]
    if settings.device == "cpu" and slow and not _computes_bfloat16():
        yield (
            f"{' and '.join(slow)} = bfloat16, which this CPU has no instructions for: several "
            "times slower than float32, in half of the memory"
        )
    if _is_few_step(settings.generator.model):
        yield FEW_STEP_ADVICE % settings.generator.model


def _computes_bfloat16() -> bool:
    """Whether this machine's CPU has instructions for bfloat16; yes where it does not say."""
    try:
        flags = set(_CPU.read_text(encoding="utf-8").split())
    except OSError:
        return True
    return "flags" not in flags or not flags.isdisjoint({"avx512_bf16", "amx_bf16"})


def _is_few_step(model: str) -> bool:
    """Whether a model's name says that it was distilled to sample in a few steps."""
    if costs.known(model) is not None:
        return False
    from tgo.pipeline.generators.folder_family import FEW_STEP_NAMES

    return not FEW_STEP_NAMES.isdisjoint(re.split(r"[\W_\d]+", Path(model).name.lower()))


def _model(settings: Settings) -> None:
    """The generator's folder is of the family, and has the parts that it names."""
    folder, family = Path(adapted_model(settings.generator.model)), settings.generator.family
    if not folder.is_dir():
        return
    index = read_json(folder / "model_index.json", "name the folder of a whole model")
    if not isinstance(index, dict):
        raise InputError(f"{folder / 'model_index.json'}: holds no object; take the model's own")
    kind = str(index.get("_class_name"))
    other = PIPELINES.get(kind, family)
    if other != family:
        raise InputError(
            f"{folder}: is a {kind}, which generator.family = {family!r} does not load; set "
            f"generator.family to {other}"
        )
    for part, entry in index.items():
        named = isinstance(entry, list) and len(entry) == 2 and entry[0] is not None
        if named and not (folder / part).is_dir() and part not in _OPTIONAL:
            raise InputError(f"{folder}: has no {part}; copy the model's folder whole")


def _prompt_checks(settings: Settings) -> Iterator[Check]:
    """One check a list that lies here: it can be read, and has as many prompts as are asked for."""
    wanted: list[tuple[PromptSet, int]] = [
        (entry, settings.evaluate.prompts) for entry in settings.prompts.tests.values()
    ]
    if not settings.imported:
        wanted.insert(0, (settings.prompts.train, settings.score.skip + settings.score.prompts))
    if settings.train.samples is not None:
        wanted.append((settings.prompts.validation, settings.train.samples.prompts))
    for entry, count in wanted:
        if Path(entry.source).exists():
            yield partial(_read, entry, count)


def _read(entry: PromptSet, count: int, _: Settings) -> None:
    from tgo.pipeline.sources import prompts

    prompts.read(entry, count)


def _judge(settings: Settings) -> None:
    if settings.evaluate.judge is not None:
        from tgo.pipeline.evaluation.evaluate import load_judge, try_judge
        from tgo.pipeline.sources import prompts

        judge = load_judge(settings.evaluate.judge)
        asked = next(iter(settings.prompts.tests.values()))
        if settings.generator.sizes and Path(asked.source).exists():
            try_judge(judge, settings.generator.sizes, prompts.read(asked)[0].text)


def _rewards(settings: Settings) -> None:
    """Reward models that are here can be loaded; those of the world are shipped whole.

    Looking at checksums reads the files: seconds for some GB.
    """
    models = {n: entry for n, entry in settings.rewards.items() if n not in settings.stand_ins}
    if models:
        from tgo.pipeline.scoring import list_rewards

        for row in list_rewards.rows(models):
            if row.name in models and row.state.startswith(
                (list_rewards.REFUSED, "missing: the p")
            ):
                raise InputError(f"rewards.{row.name}: {row.state}")


def _masked(settings: Settings) -> None:
    """What families of tokens have not."""
    generator = settings.generator
    if generator.family not in MASKED:
        return
    for name in ("quantization", "offload", "vae_tiling"):
        if getattr(generator, name):
            off = "null" if name == "quantization" else "false"
            raise InputError(
                f"generator.{name}: the family {generator.family} has none; set it to {off}"
            )


def _packages(settings: Settings) -> None:
    """What computes weights or optimizers of 8 and 4 bits."""
    method = settings.generator.quantization
    wanted = {
        f"generator.quantization = {method}": {"int8": "torchao", "nf4": "bitsandbytes"}.get(
            str(method)
        ),
        "train.optimizer = adamw8bit": "bitsandbytes"
        if settings.train.optimizer == "adamw8bit"
        else None,
        "engine = ray": "ray" if settings.engine == "ray" else None,
    }
    for key, package in wanted.items():
        if package is not None and find_spec(package) is None:
            raise InputError(
                f"{key}: needs {package}, which is not installed; "
                f"pip install 'tgo[{EXTRAS[package]}]'"
            )
    if method == "nf4" and settings.device == "cpu":
        raise InputError(
            "generator.quantization = 'nf4' needs a GPU; set it to int8, which a CPU computes, or "
            "to null"
        )


def _compiler(settings: Settings) -> None:
    named = {
        "generator.compile": settings.generator.compile,
        "score.compile": settings.score.compile,
        "train.compile": settings.train.compile,
    }
    for key in (key for key, wanted in named.items() if wanted):
        require_compiler(key)


def _processes(settings: Settings) -> None:
    """Batches that the processes of `launch.train` can share."""
    found = re.search(r"--nproc[-_]per[-_]node[= ](\d+)", settings.launch.train)
    nodes = re.search(r"--nnodes[= ](\d+)", settings.launch.train)
    processes = int(found[1]) * (int(nodes[1]) if nodes else 1) if found else 1
    if fault := unequal_parts(settings.train, processes):
        raise InputError(fault)


def _tables(settings: Settings) -> None:
    if settings.score.tables:
        from tgo.pipeline.scoring.score_tables import ScoreTables

        ScoreTables(settings.score.tables)


def _scope(settings: Settings) -> None:
    """The column of `label.scope` is one that shards have."""
    scope = settings.label.scope
    if scope in (GLOBAL, PROMPT):
        return
    there: list[str] = [*columns.SCORED]
    if paths := shards.present(layout.SCORED):
        there = shards.read_schema(paths[0]).names
    elif settings.imported:
        return  # `tgo import --keep` may bring it
    if scope not in there:
        named = [name for name in there if name not in ("image", "latents")]
        raise InputError(
            f"label.scope = {scope!r} is no column of the shards, which have {', '.join(named)}; "
            "choose one of them, global or prompt, or keep the column with `tgo import --keep`"
        )


def _files(settings: Settings) -> None:
    """Files and folders that single settings name."""
    label = settings.label
    for key, name in (("earlier", label.earlier), ("proxy", label.proxy)):
        if name is not None and not Path(name).exists():
            raise InputError(f"label.{key} = {name}: is not here; make it first, or set it to null")
    if settings.imported and origin.of(layout.SCORED) == "generated":
        raise InputError(
            f"label.reward is {RATING}, but {layout.SCORED} holds generated images; run "
            "`tgo import` in a folder of its own, or name a reward model"
        )


def _loggers(settings: Settings) -> None:
    for name in settings.train.loggers:
        if name in EXTRAS and find_spec(name) is None:
            raise InputError(
                f"train.loggers: {name} is not installed; pip install 'tgo[{EXTRAS[name]}]', or "
                "leave it out"
            )
