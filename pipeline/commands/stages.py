"""The stages as commands: score, label, train, evaluate, report, and export at the end."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from tgo.pipeline import logs
from tgo.pipeline.commands.options import (
    Changes,
    Open,
    Params,
    checked,
    finish,
    loading,
    open_page,
)
from tgo.pipeline.config.settings import Settings
from tgo.pipeline.errors import InputError
from tgo.pipeline.layout import EXPORT, LABELLED, METRICS, PARAMS, REPORTS, SCORED, THRESHOLD

WATCH_SECONDS = 5
"""Between two pages of `tgo report --watch`."""
app = typer.Typer()


class AdapterFormat(StrEnum):
    """Programs that `tgo export` writes adapters for."""

    diffusers = "diffusers"
    comfyui = "comfyui"
    kohya = "kohya"


class Export(StrEnum):
    """What `tgo export` writes: the model folder, the LoRA file, or what fits."""

    auto = "auto"
    full = "full"
    lora = "lora"


class Split(StrEnum):
    """Which prompts `tgo evaluate` reads."""

    tests = "tests"
    validation = "validation"


@app.command()
def score(
    params: Params = PARAMS,
    changes: Changes = None,
    tables: Annotated[
        list[str] | None,
        typer.Option(
            "--from", help="A table of ids and scores to join, or NAME=FILE; again for each."
        ),
    ] = None,
) -> None:
    """Make images of the training prompts and score them (stage one).

    Example: tgo score --set score.prompts=64
    """
    joined = _joined(tables or ())
    own = [f"score.tables.{name}={table}" for name, table in joined.items()]
    settings = checked(params, [*(changes or ()), *own])
    loading("score")
    from tgo.pipeline.scoring import score

    with _recorded("score"):
        score.run(settings)
    if joined:
        listed = ", ".join(f"{name}: {table}" for name, table in joined.items())
        logs.note(f"in params.yaml, for later runs and label.reward: score.tables: {{{listed}}}")
    finish(f"{SCORED}: images with scores", "tgo label")


def _joined(tables: Sequence[str]) -> dict[str, str]:
    """The table of each column that is joined."""
    from tgo.pipeline.scoring.score_tables import score_columns

    found: dict[str, str] = {}
    for text in tables:
        name, equals, file = text.partition("=")
        found |= {name: file} if equals else dict.fromkeys(score_columns(Path(text)), text)
    return found


@app.command()
def label(
    params: Params = PARAMS,
    changes: Changes = None,
    preview: Annotated[
        bool, typer.Option("--preview", help="Show what labels would be; write nothing.")
    ] = False,
    variation: Annotated[
        list[str] | None,
        typer.Option("--try", help="With --preview: as percentile=60,ties=negative."),
    ] = None,
) -> None:
    """Turn scores into labels and confidence weights (stage two).

    Example: tgo label --preview --try percentile=60
    """
    settings = checked(params, changes)
    if variation and not preview:
        raise InputError("--try shows settings without writing them; add --preview")
    if preview:
        from tgo.pipeline.labelling import preview as shown

        shown.run(settings, SCORED, variation or [])
        return
    from tgo.pipeline.labelling import label

    with _recorded("label"):
        label.run(settings)
    finish(f"{LABELLED}: labels and {THRESHOLD.name}", "tgo train")


@app.command()
def train(params: Params = PARAMS, changes: Changes = None) -> None:
    """Fine-tune the generator on the labels (stage three).

    Example: tgo train --set train.steps=30
    """
    settings = checked(params, changes)
    from tgo.pipeline.storage.label_record import check_labels

    check_labels(SCORED, LABELLED, settings.label)
    loading("train")
    from tgo.trainer import train

    with _recorded("train"):
        tuned = train.run(settings)
    finish(f"{tuned}: the tuned model", "tgo evaluate")


@app.command()
def evaluate(
    params: Params = PARAMS,
    split: Annotated[
        Split, typer.Option(help="The test sets, or the prompts that settings are chosen on.")
    ] = Split.tests,
    changes: Changes = None,
) -> None:
    """Compare the tuned model with the base model on the same prompts and seeds.

    Example: tgo evaluate --split validation
    """
    settings = checked(params, changes)
    loading("evaluate")
    from tgo.pipeline.evaluation import evaluate

    with _recorded("evaluate"):
        evaluate.run(settings, split.value)
    if split is Split.tests:
        finish(f"{METRICS}: scores of base and tuned model", "tgo report")


@app.command()
def report(
    params: Params = PARAMS,
    show: Open = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show a run while it goes on, until Ctrl-C.")
    ] = False,
) -> None:
    """Write reports/index.html, one page that shows everything.

    Example: tgo report --open
    """
    settings = checked(params)
    loading("report")
    if watch:
        _watch(settings, show)
    from tgo.pipeline.page import report

    page = report.run(settings)
    if show:
        open_page(page)
    finish(f"{REPORTS / 'index.html'}: open it in a browser", "tgo export")


@app.command()
def export(
    params: Params = PARAMS,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write.")] = EXPORT,
    kind: Annotated[
        Export, typer.Option(help="auto: the LoRA file where training made one.")
    ] = Export.auto,
    format: Annotated[
        AdapterFormat, typer.Option(help="Whose names the LoRA file has: who is to read it.")
    ] = AdapterFormat.diffusers,
    licence: Annotated[
        str | None,
        typer.Option(help="As the hub calls it, such as apache-2.0; left out: the base model's."),
    ] = None,
) -> None:
    """Bundle the tuned model with its card, scores and evidence, ready for `hf upload`.

    Example: tgo export --output models/export --kind lora
    """
    output, params = output.absolute(), params.absolute()  # before `checked` changes the folder
    settings = checked(params)
    from tgo.pipeline.publishing import export

    export.run(settings, params, output, kind.value, format.value, licence)


def _watch(settings: Settings, show: bool) -> NoReturn:
    """Write reports/live.html every few seconds until Ctrl-C."""
    from tgo.pipeline.page import live

    pages = live.watch(settings, WATCH_SECONDS)
    page = next(pages)
    logs.note(f"{page}: open it in a browser; written every {WATCH_SECONDS} s until Ctrl-C")
    if show:
        open_page(page)
    while True:
        next(pages)


def _recorded(stage: str) -> AbstractContextManager[None]:
    """Note for the report when the stage ran, how long, and where."""
    from tgo.pipeline.layout import RUNNING, STAGES
    from tgo.pipeline.storage.stage_log import recorded

    return recorded(STAGES, RUNNING, stage)
