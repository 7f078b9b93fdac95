"""The `tgo` command line: one command a stage, and a few to look and to check.

Whatever is wrong with input or disk is one line on stderr and exit status 2. A stage that is
stopped (Ctrl-C, SIGTERM) or killed goes on when the same command is run again.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from contextlib import AbstractContextManager
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from typer.exceptions import TyperException

from tgo.pipeline import data_commands, logs
from tgo.pipeline.command_options import (
    AsJson,
    Changes,
    Params,
    checked,
    finish,
    loading,
    pair,
    print_json,
)
from tgo.pipeline.errors import InputError
from tgo.pipeline.installation import check_source, explain_missing, missing_extras
from tgo.pipeline.layout import (
    EXPORT,
    LABELLED,
    METRICS,
    PARAMS,
    PRESETS,
    REPORTS,
    SCORED,
    THRESHOLD,
)
from tgo.rewards.errors import RewardError

app = typer.Typer(
    help="Align text-to-image models with scalar feedback: score, label, train, evaluate, report.",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
)
app.add_typer(data_commands.app)
_PROCESS = os.getpid()


@app.callback()
def _common(
    context: typer.Context,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say more, for finding a fault.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Say nothing but warnings and errors.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)
    ] = False,
) -> None:
    if version:
        print(f"tgo {metadata.version('tgo')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit
    logs.configure(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)


class Device(StrEnum):
    """Where models run; auto takes a GPU when there is one."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Dtype(StrEnum):
    """What models compute in."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


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
def score(params: Params = PARAMS, changes: Changes = None) -> None:
    """Make images of the training prompts and score them (stage one).

    Example: tgo score --set score.prompts=64
    """
    settings = checked(params, changes)
    loading("score")
    from tgo.pipeline.scoring import score

    with _recorded("score"):
        score.run(settings)
    finish(f"{SCORED}: images with scores", "tgo label")


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
    show: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """Write reports/index.html, one page that shows everything.

    Example: tgo report --open
    """
    settings = checked(params)
    loading("report")
    from tgo.pipeline.page import report

    page = report.run(settings)
    if show:
        import webbrowser

        webbrowser.open(page.resolve().as_uri())
    finish(f"{REPORTS / 'index.html'}: open it in a browser", "tgo export")


@app.command()
def compare(
    runs: Annotated[
        list[str],
        typer.Argument(help="Folders of runs, commits or experiments; the first is the measure."),
    ],
    params: Params = PARAMS,
) -> None:
    """Hold the tuned models of several runs against each other, pair by pair.

    Example: tgo compare . other-experiment
    """
    if len(runs) < 2:
        raise InputError("compare: name two runs or more, such as `tgo compare . other-experiment`")
    settings = checked(params)
    loading("compare")
    from tgo.pipeline.tools import compare

    found = compare.lines({run: compare.read(run) for run in runs}, settings.seed)
    compare.show(found)


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
) -> None:
    """Bundle the tuned model with its card, scores and evidence, ready for `hf upload`.

    Example: tgo export --output models/export --kind lora
    """
    output, params = output.absolute(), params.absolute()  # before `checked` changes the folder
    settings = checked(params)
    from tgo.pipeline.publishing import export

    export.run(settings, params, output, kind.value, format.value)


@app.command()
def verify(params: Params = PARAMS) -> None:
    """Check every shard and label on disk: checksums, images, ids, scores.

    Example: tgo verify
    """
    settings = checked(params)
    loading("verify")
    from tgo.pipeline.tools import verify

    verify.run(settings)


@app.command()
def rewards(params: Params = PARAMS, as_json: AsJson = False) -> None:
    """List the reward models: who offers them, what is loaded from where, what is missing.

    Example: tgo rewards --json
    """
    settings = checked(params)
    loading("rewards")
    from tgo.pipeline.scoring import list_rewards

    if as_json:
        print_json([row._asdict() for row in list_rewards.rows(settings.rewards)])
    else:
        list_rewards.show(settings.rewards)


@app.command("score-images")
def score_images(
    data: Annotated[str, typer.Argument(help="A folder of images, a table, tars or a dataset.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The Parquet file to write.")],
    prompts: Annotated[
        Path | None,
        typer.Option(help="For a folder: .jsonl, .csv or .tsv with file_name and prompt, or .txt."),
    ] = None,
    reward: Annotated[
        list[str] | None,
        typer.Option(help="NAME=SOURCE, again for each; left out: those of the settings file."),
    ] = None,
    params: Params = PARAMS,
    batch_size: Annotated[int, typer.Option(min=1, help="Images scored at once.")] = 64,
    device: Annotated[Device, typer.Option(help="Where to score.")] = Device.auto,
    dtype: Annotated[Dtype, typer.Option(help="What the towers compute in.")] = Dtype.float32,
    images: Annotated[
        Path | None, typer.Option(help="The folder that file names in a table are relative to.")
    ] = None,
    image_column: Annotated[str | None, typer.Option(help="File names or pictures.")] = None,
    prompt_column: Annotated[str | None, typer.Option(help="The prompts.")] = None,
    split: Annotated[str, typer.Option(help="Of a dataset.")] = "train",
    outside: Annotated[
        bool, typer.Option("--outside", help="Read files outside the folder, too.")
    ] = False,
) -> None:
    """Score images that are already there; goes on where it was when run again."""
    sources: dict[str, Any] = dict(
        pair(text, "--reward", "NAME=SOURCE, such as clip=models/clip") for text in reward or ()
    )
    if not sources:
        entries = checked(params).rewards
        sources = {name: entry.model_dump() for name, entry in entries.items()}
    from tgo.pipeline.scoring import score_images
    from tgo.pipeline.sources.image_table import Source

    columns = {"image": image_column, "prompt": prompt_column}
    table = score_images.score_images(
        Source(data, images=images, columns=columns, split=split, outside=outside),
        prompts,
        rewards=sources,
        output=output,
        batch_size=batch_size,
        device=device.value,
        dtype=dtype.value,
    )
    logging.getLogger(__name__).info("%s: %s", output, score_images.summary(table))
    data_commands.exit_by_failures(score_images.count_failed(table), table.num_rows)


@app.command(hidden=True, context_settings={"ignore_unknown_options": True})
def rate(arguments: Annotated[list[str] | None, typer.Argument()] = None) -> None:
    """The name of `score-images` in earlier versions."""
    raise InputError(
        "tgo rate: is `tgo score-images` now, with the same options; rating is what people do"
    )


@app.command()
def preset(
    name: Annotated[
        str | None, typer.Argument(help="A file of presets/, without .yaml; left out: list them.")
    ] = None,
    params: Params = PARAMS,
) -> None:
    """Fill params.yaml from presets/NAME.yaml and show what changes; comments stay.

    Example: tgo preset sdxl-lora
    """
    from tgo.pipeline.tools import preset

    if name is None:
        for line in preset.listed(PRESETS):
            print(line)
        return
    for change in preset.apply(name, PRESETS, params) or [f"{params}: already as {name} says"]:
        print(change)


@app.command()
def plan(
    params: Params = PARAMS,
    gpu: Annotated[str, typer.Option(help="h200, h100, a100 or l40s.")] = "h200",
    gpus: Annotated[int, typer.Option(min=1, help="How many of them.")] = 1,
    share: Annotated[
        float | None, typer.Option(help="Of its peak that is reached; left out: an estimate.")
    ] = None,
) -> None:
    """Say what a run would do and cost; checks the settings and loads nothing."""
    settings = checked(params)
    from tgo.pipeline.tools import run_plan

    for line in run_plan.lines(settings, gpu=gpu, gpus=gpus, share=share):
        print(line)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    world: Annotated[
        bool,
        typer.Option("--world", help="With the miniature models: `dvc repro` runs at once."),
    ] = False,
) -> None:
    """Make a project of settings, stages, presets and prompts: `tgo init my-project --world`."""
    from tgo.pipeline.tools import init_project

    init_project.create(folder, world=world)
    print(f"{folder}: settings, stages, presets and prompts")
    print(f"next: cd {folder}; {'' if world else 'tgo preset NAME; tgo plan; '}dvc repro")
    if missing := missing_extras():
        print(f"first: pip install 'tgo[{','.join(missing)}]'")


def main() -> None:
    """Run a command; see the module for what errors and signals become."""
    logs.configure()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    try:
        check_source(Path())
        raise SystemExit(app(standalone_mode=False))
    except TyperException as error:
        _fail(f"{error.format_message().replace('Value error, ', '')} (see tgo --help)")
    except (InputError, RewardError) as error:
        _fail(str(error))
    except ModuleNotFoundError as error:
        if not (remedy := explain_missing(error)):
            raise
        _fail(remedy)
    except OSError as error:
        from tgo.pipeline.storage.atomic import explain, is_disks_fault

        if not is_disks_fault(error):
            raise
        _fail(f"{error.filename or 'disk'}: {explain(error)}")


def _recorded(stage: str) -> AbstractContextManager[None]:
    """Note for the report when the stage ran, how long, and where."""
    from tgo.pipeline.layout import STAGES
    from tgo.pipeline.storage.stage_log import recorded

    return recorded(STAGES, stage)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    """Unwind as an exit does, so that temporary files and locks go; the conventional status."""
    if os.getpid() != _PROCESS:  # a worker that was forked and inherited this handler
        os._exit(128 + number)
    name = signal.Signals(number).name
    print(f"tgo: {name}: stopped; run the same command again to continue", file=sys.stderr)
    if _is_importing(frame):
        sys.stderr.flush()
        os._exit(128 + number)
    raise SystemExit(128 + number)


def _is_importing(frame: FrameType | None) -> bool:
    """Whether a module is being imported: an exception in there is caught or aborts the process.

    Nothing is lost by leaving at once: locks end with the process, and what an outer call may have
    half written lies under a temporary name that the next run removes.
    """
    while frame:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _fail(line: str) -> NoReturn:
    print(f"tgo: error: {' '.join(line.split())}", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    main()
