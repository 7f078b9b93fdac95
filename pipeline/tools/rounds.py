"""`tgo round`: a finished run becomes a round, and params.yaml is set to the next one.

The next round makes its images with the tuned model, of the prompts that follow, and trains on from
there: the tuned model is its reference, too. What is compared stays the first model of all. A round
is kept under rounds/NUMBER with the paths of a project, so that `tgo inspect rounds/1/data/scored`
and `tgo compare rounds/1 .` read it.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from tgo.pipeline import layout
from tgo.pipeline.config.settings import Settings
from tgo.pipeline.errors import InputError
from tgo.pipeline.generators import model_sha256
from tgo.pipeline.page import rounds_table, run_files
from tgo.pipeline.sources import prompts
from tgo.pipeline.storage import shards
from tgo.pipeline.storage.ownership import replacing_folder
from tgo.pipeline.storage.results import FACTS
from tgo.pipeline.tools import preset

KIND = "round"
KEPT = (layout.SCORED, layout.LABELLED, layout.TUNED, layout.REPORTS)
_PASSING = ("tensorboard", "dvc_plots", layout.RUNNING.name, layout.COMPARISON.name)
"""Files of reports/ that tell nothing of the round, or can be made again."""


def close(settings: Settings, params: Path) -> tuple[Path, list[str]]:
    """Keep the finished run as a round, and set the settings file to the next one.

    Killed at any moment, the same command goes on: a round is kept whole or not at all, and the
    settings are written last.

    Args:
        settings: those of the run, which must be finished: evaluated, with these settings.
        params: the file that holds them.

    Returns:
        The round's folder, and the changed settings as `key: old -> new`.

    Raises:
        InputError: a stage has not run or ran with other settings; the feedback was imported;
            the round's folder holds files of others.
    """
    if settings.imported:
        raise InputError(
            f"{layout.SCORED}: holds imported ratings, and people have not seen the tuned model's "
            "images; make some with `tgo score` in another project, have them rated (`tgo ask`), "
            "and import them here with generator.model set to the tuned model"
        )
    facts = run_files.read(settings).facts
    _require_trained(settings, facts)
    if not shards.is_whole(layout.SCORED):
        raise InputError(
            f"{layout.SCORED}: lacks the round's images; run `tgo score` (or `dvc pull`)"
        )
    folder = _place(facts["tuned_sha256"])
    with replacing_folder(folder, KIND) as place:
        for source in KEPT:
            shutil.copytree(
                source,
                place / source,
                ignore=shutil.ignore_patterns(*_PASSING, ".*"),
                copy_function=_link_shards,
            )
        shutil.copyfile(params, place / layout.PARAMS)
    return folder, preset.edit(params, lambda values: _set_next(values, settings, folder), KIND)


def _require_trained(settings: Settings, facts: dict[str, Any]) -> None:
    """models/tuned is what was evaluated, and more than what the last round left."""
    tuned = model_sha256(settings.generator, layout.TUNED)
    if tuned != facts["tuned_sha256"]:
        raise InputError(
            f"{layout.EVALUATION}: is of another model than {layout.TUNED}; run `tgo evaluate`"
        )
    if tuned == model_sha256(settings.generator):
        raise InputError(
            f"{layout.TUNED}: is the model that this round begins with; run `dvc repro` first"
        )


def _place(tuned_sha256: str) -> Path:
    """The folder of a new round, or of the last one where a kill came before the settings."""
    there = rounds_table.folders()
    if there:
        last = rounds_table.evaluation(there[-1])
        if last[FACTS].get("tuned_sha256") == tuned_sha256:
            return there[-1]
        return layout.ROUNDS / str(int(there[-1].name) + 1)
    return layout.ROUNDS / "1"


def _link_shards(source: str, target: str) -> str:
    """A shard is never written in place, so a second name is as good as a copy, and free."""
    if source.endswith(".parquet"):
        try:
            os.link(source, target)
            return target
        except OSError:  # another disk, or one without links
            pass
    return shutil.copyfile(source, target)


def _set_next(values: Any, settings: Settings, folder: Path) -> None:
    """Images of the tuned model, of the next prompts; compared with the first model."""
    score = settings.score
    used = score.skip + score.prompts
    enough = len(prompts.check(settings.prompts.train).prompts) >= used + score.prompts
    values["generator"]["model"] = (folder / layout.TUNED).as_posix()
    values["score"]["skip"] = used if enough else 0
    values["evaluate"]["base"] = settings.compared_base
