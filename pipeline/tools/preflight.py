"""What a later stage would refuse, found by a look: no model is loaded and nothing is fetched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from tgo.pipeline import layout
from tgo.pipeline.config import columns
from tgo.pipeline.config.label_settings import GLOBAL, PROMPT, RATING
from tgo.pipeline.config.prompt_settings import PromptSet
from tgo.pipeline.config.settings import Settings
from tgo.pipeline.documents import read_json
from tgo.pipeline.errors import InputError
from tgo.pipeline.generators import PIPELINES
from tgo.pipeline.generators.base_model import adapted_model
from tgo.pipeline.installation import EXTRAS
from tgo.pipeline.storage import origin, shards

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
    for check in (_model, *_prompt_checks(settings), _judge, _tables, _scope, _files, _loggers):
        try:
            check(settings)
        except InputError as error:
            yield str(error)


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
