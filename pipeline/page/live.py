"""`tgo report --watch`: a page on a run that goes on, written anew every few seconds.

It reads what the stages leave on disk and holds no lock, so it may watch a run in another terminal.
After every stage the report itself is written, as soon as all its files belong together.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tgo.pipeline import layout
from tgo.pipeline.config.settings import Settings
from tgo.pipeline.errors import InputError
from tgo.pipeline.page import charts, progress, report, run_details, run_files
from tgo.pipeline.storage import results, shards, stage_log
from tgo.pipeline.storage.atomic import replacing
from tgo.pipeline.templates import colours, template
from tgo.pipeline.training_log import health

log = logging.getLogger(__name__)
LIVE = layout.REPORTS / "live.html"
STAGES = ("score", "label", "train", "evaluate")


class Done(NamedTuple):
    """How far a stage is."""

    done: int
    total: int
    unit: str


def watch(settings: Settings, seconds: int) -> Iterator[Path]:
    """Write the page again and again; for ever, so the caller says when it is enough.

    Args:
        settings: the checked settings of the run.
        seconds: between two pages.

    Yields:
        Path: the page, each time it has been written.
    """
    told: object = None
    whole, lacking = False, ""
    while True:
        ended = stage_log.read(layout.STAGES)
        if ended != told:
            told = ended
            whole, lacking = _renew(settings)
        write(settings, seconds, whole=whole, lacking=lacking)
        yield LIVE
        time.sleep(seconds)


def write(settings: Settings, seconds: int, *, whole: bool, lacking: str) -> Path:
    """Write reports/live.html once.

    Args:
        settings: the checked settings of the run.
        seconds: after which a browser reads the page again.
        whole: whether there is a report to link to.
        lacking: what the report lacks, if there is none.

    Returns:
        The page's path.
    """
    lines = _training_log()
    running = stage_log.running(layout.RUNNING)
    context: dict[str, Any] = {
        "light": colours.LIGHT,
        "dark": colours.DARK,
        "seconds": seconds,
        "running": running,
        "stages": [_row(stage, settings, running) for stage in STAGES],
        "verdicts": health.verdicts(lines),
        "step": lines[-1]["step"] if lines else None,
        "figures": list(charts.training(lines).values()),
        "progress": progress.read(layout.SAMPLES),
        "report": os.path.relpath(report.INDEX, LIVE.parent) if whole else None,
        "lacking": lacking.replace("`", ""),
    }
    with replacing(LIVE) as file:
        file.write(template("live.html.j2").render(context).encode())
    return LIVE


def _renew(settings: Settings) -> tuple[bool, str]:
    """Write the report, if its files belong together; whether there is one, or what it lacks."""
    try:
        report.run(settings)
    except InputError as error:
        log.debug("no report yet: %s", error)
        return False, str(error)
    return True, ""


def _row(stage: str, settings: Settings, running: dict[str, Any] | None) -> dict[str, Any]:
    """A stage as the page shows it."""
    last = stage_log.read(layout.STAGES).get(stage)
    active = running is not None and running["stage"] == stage
    how = "runs" if active else "done" if last else "not yet"
    return {
        "stage": stage,
        "state": how,
        "last": f"{last['began']}, took {run_details.duration(last['seconds'])}" if last else "",
        "done": _done(stage, settings),
    }


def _done(stage: str, settings: Settings) -> Done | None:
    """How far a stage is by what lies on disk; None where that does not tell."""
    if stage == "score":
        return _shards(layout.SCORED)
    if stage == "label":
        return _shards(layout.LABELLED)
    if stage == "train":
        lines = _training_log()
        return Done(lines[-1]["step"] if lines else 0, settings.train.steps, "steps")
    folders = [one for name in settings.prompts.tests for one in run_files.evaluated(name)]
    return Done(sum(map(shards.is_whole, folders)), len(folders), "sets of images")


def _shards(folder: Path) -> Done | None:
    """Shards that are there, of as many as their names speak of."""
    found = shards.present(folder)
    return Done(len(found), shards.parts_of(found[0]), "shards") if found else None


def _training_log() -> list[dict[str, Any]]:
    """The lines so far; none before the first, and none of a line that is being written."""
    try:
        return results.train_log()
    except InputError as error:
        log.debug("no training log yet: %s", error)
        return []
