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
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from tgo.pipeline import data_commands, logs
from tgo.pipeline.errors import InputError
from tgo.pipeline.installation import check_source, explain_missing, missing_extras
from tgo.pipeline.layout import EXPORT, PARAMS, PRESETS
from tgo.rewards.errors import RewardError

if TYPE_CHECKING:
    from tgo.pipeline.config.settings import Settings

app = typer.Typer(
    help="Align text-to-image models with scalar feedback: score, label, train, evaluate, report.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(data_commands.app)
_PROCESS = os.getpid()
Params = Annotated[Path, typer.Option("--params", help="The settings file.")]


@app.callback()
def _common() -> None:
    logs.configure()


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
def score(params: Params = PARAMS) -> None:
    """Stage one: make images of the training prompts and score them."""
    settings = _checked(params)
    from tgo.pipeline.scoring import score

    with _recorded("score"):
        score.run(settings)


@app.command()
def label(
    params: Params = PARAMS,
    preview: Annotated[
        bool, typer.Option("--preview", help="Show what labels would be; write nothing.")
    ] = False,
    variation: Annotated[
        list[str] | None,
        typer.Option("--try", help="With --preview: as percentile=60,ties=negative."),
    ] = None,
) -> None:
    """Stage two: thresholds, labels and confidence weights."""
    settings = _checked(params)
    if variation and not preview:
        raise InputError("--try shows settings without writing them; add --preview")
    if preview:
        from tgo.pipeline.labelling import preview as shown
        from tgo.pipeline.layout import SCORED

        shown.run(settings, SCORED, variation or [])
        return
    from tgo.pipeline.labelling import label

    with _recorded("label"):
        label.run(settings)


@app.command()
def train(params: Params = PARAMS) -> None:
    """Stage three: fine-tune the generator on the labels."""
    settings = _checked(params)
    from tgo.pipeline.layout import LABELLED, SCORED
    from tgo.pipeline.storage.label_record import check_labels

    check_labels(SCORED, LABELLED, settings.label)
    from tgo.trainer import train

    with _recorded("train"):
        train.run(settings)


@app.command()
def evaluate(
    params: Params = PARAMS,
    split: Annotated[
        Split, typer.Option(help="The test sets, or the prompts that settings are chosen on.")
    ] = Split.tests,
) -> None:
    """Compare the tuned model with the base model: same prompts, same seeds."""
    settings = _checked(params)
    from tgo.pipeline.evaluation import evaluate

    with _recorded("evaluate"):
        evaluate.run(settings, split.value)


@app.command()
def report(params: Params = PARAMS) -> None:
    """Write reports/index.html, one page that shows everything."""
    settings = _checked(params)
    from tgo.pipeline.page import report

    report.run(settings)


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
    """Bundle the tuned model with its card, scores and evidence, ready for `hf upload`."""
    settings = _checked(params)
    from tgo.pipeline.publishing import export

    export.run(settings, params, output, kind.value, format.value)


@app.command()
def verify(params: Params = PARAMS) -> None:
    """Check every shard and label on disk: checksums, images, ids, scores."""
    settings = _checked(params)
    from tgo.pipeline.tools import verify

    verify.run(settings)


@app.command()
def rewards(params: Params = PARAMS) -> None:
    """List the reward models: who offers them, what is loaded from where, what is missing."""
    settings = _checked(params)
    from tgo.pipeline.scoring import list_rewards

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
    sources: dict[str, Any] = dict(_name_and_source(pair) for pair in reward or ())
    if not sources:
        entries = _checked(params).rewards
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
    name: Annotated[str, typer.Argument(help="A file of presets/, without .yaml.")],
    params: Params = PARAMS,
) -> None:
    """Fill params.yaml from presets/NAME.yaml; comments stay."""
    from tgo.pipeline.tools import preset

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
    settings = _checked(params)
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
        app()
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


def _checked(params: Path) -> Settings:
    """The settings, before the stage is imported: torch takes seconds, a typo should not."""
    from tgo.pipeline.config.settings import load

    return load(params)


def _name_and_source(pair: str) -> tuple[str, str]:
    name, equals, source = pair.partition("=")
    if not (name and equals and source):
        raise InputError(f"--reward {pair}: write NAME=SOURCE, such as clip=models/clip")
    return name, source


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    """Unwind as an exit does, so that temporary files and locks go; the conventional status."""
    if os.getpid() != _PROCESS:  # a worker that was forked and inherited this handler
        os._exit(128 + number)
    name = signal.Signals(number).name
    print(f"tgo: {name}: stopped; run the same command again to continue", file=sys.stderr)
    raise SystemExit(128 + number)


def _fail(line: str) -> NoReturn:
    print(f"tgo: error: {' '.join(line.split())}", file=sys.stderr)
    raise SystemExit(2)
