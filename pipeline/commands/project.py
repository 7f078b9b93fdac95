"""The commands around a project: to begin one, to plan it, to look whether all is well."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tgo.pipeline.commands.options import (
    AsJson,
    Open,
    Params,
    checked,
    loading,
    open_page,
    print_json,
)
from tgo.pipeline.errors import InputError
from tgo.pipeline.installation import missing_extras
from tgo.pipeline.layout import DVC_PLOTS, PARAMS, PRESETS

app = typer.Typer()


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    world: Annotated[
        bool,
        typer.Option("--world", help="With the miniature models: `dvc repro` runs at once."),
    ] = False,
) -> None:
    """Make a project of settings, stages, presets and prompts.

    Example: tgo init my-project --world
    """
    from tgo.pipeline.tools import init_project

    init_project.create(folder, world=world)
    print(f"{folder}: settings, stages, presets and prompts")
    print(f"next: cd {folder}; {'' if world else 'tgo preset NAME; tgo plan; '}dvc repro")
    if missing := missing_extras():
        print(f"first: pip install 'tgo[{','.join(missing)}]'")


@app.command()
def preset(
    name: Annotated[
        str | None, typer.Argument(help="A file of presets/, without .yaml; left out: list them.")
    ] = None,
    params: Params = PARAMS,
    gpus: Annotated[
        int | None, typer.Option(min=1, help="Cards of one machine; left out: the preset's.")
    ] = None,
) -> None:
    """Fill params.yaml from presets/NAME.yaml and show what changes; comments stay.

    Example: tgo preset sdxl-lora --gpus 2
    """
    from tgo.pipeline.tools import preset

    if name is None:
        for line in preset.listed(PRESETS):
            print(line)
        return
    for change in preset.apply(name, PRESETS, params, gpus) or [
        f"{params}: already as {name} says"
    ]:
        print(change)


@app.command()
def plan(
    params: Params = PARAMS,
    gpu: Annotated[
        str, typer.Option(help="A card, such as h200 or rtx4090, or TFLOP/s and GB, as 165:24.")
    ] = "h200",
    gpus: Annotated[int, typer.Option(min=1, help="How many of them.")] = 1,
    share: Annotated[
        float | None, typer.Option(help="Of its peak that is reached; left out: an estimate.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a run would do and cost, and what a stage would refuse; loads nothing.

    The exit status is 2 where something would be refused.

    Example: tgo plan --gpu a100 --gpus 8
    """
    settings = checked(params)
    from tgo.pipeline.tools import run_plan

    found: dict[str, list[str]] = {}
    for line in run_plan.lines(settings, gpu=gpu, gpus=gpus, share=share):
        subject, _, text = line.partition(" ")
        found.setdefault(subject, []).append(text.strip())
        if not as_json:
            print(line)
    if as_json:
        print_json(found)
    if run_plan.REFUSED in found:
        raise typer.Exit(2)


@app.command()
def fetch(
    params: Params = PARAMS,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before fetching.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list it.")] = False,
) -> None:
    """Bring models, reward models and prompt lists that the settings name and that are not here.

    Says size and licence first; a download that was stopped goes on when run again.
    Example: tgo preset sd15; tgo fetch
    """
    settings = checked(params)
    loading("fetch")
    from tgo.pipeline.tools import fetch

    found, lost = fetch.missing(settings)
    for line in [*(item.line for item in found), *lost]:
        print(line)
    if not found and not lost:
        print("fetch: everything is here")
    if found and not dry_run:
        print(fetch.room(found))
        if yes or typer.confirm("fetch it?"):
            fetch.fetch(found)
    if lost:
        raise InputError(f"{len(lost)} of the settings name what is not here; see above")


@app.command()
def doctor(params: Params = PARAMS, as_json: AsJson = False) -> None:
    """Say what this machine has and lacks for a run; exit status 2 where something is missing.

    Example: tgo doctor
    """
    settings = checked(params)
    loading("doctor")
    from tgo.pipeline.tools import doctor

    found = list(doctor.look(settings))
    if as_json:
        print_json([line._asdict() for line in found])
    else:
        for line in found:
            print(f"{line.state:<8} {line.text}")
    if any(line.state == "MISSING" for line in found):
        raise typer.Exit(2)


@app.command()
def rewards(params: Params = PARAMS, as_json: AsJson = False) -> None:
    """List the reward models: who offers them, what is loaded from where, what is missing.

    Example: tgo rewards --json
    """
    settings = checked(params)
    loading("rewards")
    from tgo.pipeline.scoring import list_rewards

    if as_json:
        found = list_rewards.rows(settings.rewards)
        print_json([row._asdict() | {"status": row.status} for row in found])
    else:
        list_rewards.show(settings.rewards)


@app.command()
def verify(params: Params = PARAMS, as_json: AsJson = False) -> None:
    """Check every shard and label on disk: checksums, images, ids, scores.

    Example: tgo verify --json
    """
    settings = checked(params)
    loading("verify")
    from tgo.pipeline.tools import verify

    if not as_json:
        verify.run(settings)
        return
    found = {str(folder): problems for folder, problems in verify.problems(settings)}
    print_json(found)
    if any(found.values()):
        raise typer.Exit(2)


@app.command()
def compare(
    runs: Annotated[
        list[str],
        typer.Argument(help="Folders of runs, commits or experiments; the first is the measure."),
    ],
    params: Params = PARAMS,
    as_json: AsJson = False,
    show: Open = False,
) -> None:
    """Hold the tuned models of several runs against each other, pair by pair.

    Prints a table and writes reports/compare.html, a page of verdicts, intervals and pictures.
    Example: tgo compare . other-experiment
    """
    if len(runs) < 2:
        raise InputError("compare: name two runs or more, such as `tgo compare . other-experiment`")
    settings = checked(params)
    loading("compare")
    from tgo.pipeline.tools import compare, comparison_page

    read = {run: compare.read(run) for run in runs}
    found = compare.lines(read, settings.seed)
    if as_json:
        print_json(compare.as_json(found))
        return
    main = compare.main_lines(found, settings)
    compare.show(main)
    page = comparison_page.write(read, main, settings.shown_reward, settings.seed)
    print(f"{page}: open it in a browser")
    if show:
        open_page(page)


@app.command(name="round")
def next_round(params: Params = PARAMS) -> None:
    """Keep a finished run as a round, and set params.yaml to the next one.

    The next `dvc repro` makes images with the tuned model and trains on from there; the report
    shows the rounds side by side. What is kept lies in rounds/.

    Example: dvc repro; tgo round; dvc repro
    """
    settings = checked(params)
    loading("round")
    from tgo.pipeline.tools import rounds

    folder, changes = rounds.close(settings, params)
    print(f"{folder}: the finished round")
    for change in changes:
        print(change)
    print("next: dvc repro")


@app.command()
def plots(
    revisions: Annotated[
        list[str] | None,
        typer.Argument(help="Experiments or commits to show beside the workspace."),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The folder to write.")
    ] = DVC_PLOTS,
    show: Open = False,
) -> None:
    """Write DVC's plots as a page that opens without a network.

    Example: tgo plots main my-experiment
    """
    from tgo.pipeline.tools import offline_plots

    page = offline_plots.write(output, revisions or [])
    print(f"{page}: open it in a browser")
    if show:
        open_page(page)


@app.command()
def clean(
    yes: Annotated[bool, typer.Option("--yes", help="Remove what is listed.")] = False,
) -> None:
    """List work of other settings that was set aside, and remove it on request.

    Without --yes nothing is removed: shards and checkpoints come back by themselves when their
    settings do. Files that tgo did not write are never removed.

    Example: tgo clean --yes
    """
    from tgo.pipeline.tools import clean
    from tgo.pipeline.wording import size

    ours, foreign = clean.removable()
    for line in clean.lines(ours, foreign):
        print(line)
    total = size(sum(entry.bytes for entry in ours))
    if not ours:
        print("clean: nothing to remove")
    elif yes:
        print(f"clean: {size(clean.remove(ours))} freed")
    else:
        print(f"clean: {total} could be freed; `tgo clean --yes` removes it")
