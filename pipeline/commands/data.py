"""The commands around data: prompt lists, ratings, and looking into the shards."""

from __future__ import annotations

import logging
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from tgo.pipeline.commands.options import AsJson, Params, checked, loading, pair, print_json
from tgo.pipeline.errors import InputError
from tgo.pipeline.layout import LABELLED, PARAMS, SCORED
from tgo.pipeline.sources.aggregates import Aggregate

app = typer.Typer()


TABLES = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".txt")


class Format(StrEnum):
    """Layouts of prompt lists."""

    text = "text"
    tsv = "tsv"
    csv = "csv"
    jsonl = "jsonl"
    json = "json"
    parquet = "parquet"
    hub = "hub"
    partiprompts = "partiprompts"
    hpsv2 = "hpsv2"
    pickapic = "pickapic"


class RatingFormat(StrEnum):
    """Layouts of ratings."""

    table = "table"
    pickapic = "pickapic"
    diffusion_kto = "diffusion-kto"
    label_studio = "label-studio"
    hpdv3 = "hpdv3"
    argilla = "argilla"
    rankings = "rankings"
    chosen = "chosen"
    pairs = "pairs"
    folders = "folders"


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


SOME_FAILED = 3
"""Exit status of a command that did its work, but for rows that could not be used."""


def exit_by_failures(failed: int, rows: int) -> None:
    """End the command by how many of its rows failed: 0 for none, 3 for some, 2 for all."""
    if failed and failed == rows:
        raise InputError(f"none of the {rows} images could be used; the reasons stand above")
    if failed:
        raise typer.Exit(SOME_FAILED)


@app.command()
def prompts(
    sources: Annotated[
        list[str] | None,
        typer.Argument(help="Files or datasets; left out: the sets of the settings file."),
    ] = None,
    params: Annotated[Path, typer.Option("--params", help="The settings file.")] = PARAMS,
    format: Annotated[
        Format | None, typer.Option(help="Of the sources, where their name does not tell.")
    ] = None,
) -> None:
    """Check prompt lists: how many, in which domains, and what is wrong on which line.

    Example: tgo prompts data/prompts/train.jsonl
    """
    from tgo.pipeline.config import settings
    from tgo.pipeline.config.prompt_settings import PromptSet
    from tgo.pipeline.sources import prompts

    if sources:
        chosen = format.value if format else None
        wanted = [PromptSet.model_validate({"source": s, "format": chosen}) for s in sources]
    else:
        wanted = list(settings.load(params).prompts.by_key().values())
    for one in wanted:
        found = prompts.check(one)
        print(found.summary)
        for note in found.notes:
            print(f"  {note}")


@app.command("import")
def import_(
    source: Annotated[
        str, typer.Argument(help="A table, a folder, tars or a dataset (docs/data.md).")
    ],
    images: Annotated[
        Path | None, typer.Option(help="The folder that file names are relative to.")
    ] = None,
    format: Annotated[
        RatingFormat | None, typer.Option(help="Left out: recognised by the columns.")
    ] = None,
    rating_column: Annotated[str | None, typer.Option(help="Stars, likes, clicks, ...")] = None,
    prompt_column: Annotated[str | None, typer.Option(help="The prompts.")] = None,
    image_column: Annotated[str | None, typer.Option(help="File names or pictures.")] = None,
    id_column: Annotated[str | None, typer.Option(help="What tells pictures apart.")] = None,
    count_column: Annotated[
        str | None, typer.Option(help="How many ratings a row stands for.")
    ] = None,
    views_column: Annotated[
        str | None, typer.Option(help="How often it was shown: ratings are then clicks per view.")
    ] = None,
    domain_column: Annotated[str | None, typer.Option(help="A grouping of prompts.")] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(help="A further column for the shards (for label.scope), again for each."),
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="Numbers for ratings that are words: good=1,bad=0.")
    ] = None,
    aggregate: Annotated[
        Aggregate, typer.Option(help="What becomes of several ratings of an image.")
    ] = Aggregate.mean,
    unit: Annotated[str | None, typer.Option(help="What a rating counts, in words.")] = None,
    split: Annotated[str, typer.Option(help="Of a dataset.")] = "train",
    outside: Annotated[
        bool, typer.Option("--outside", help="Read files outside the folder, too.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what is recognised; write nothing.")
    ] = False,
    params: Annotated[Path, typer.Option("--params", help="The settings file.")] = PARAMS,
) -> None:
    """Bring images with people's ratings into data/scored; run again, it goes on where it was.

    Example: tgo import pictures --rating-column stars --dry-run
    """
    if Path(source).suffix.lower() in TABLES and not Path(source).exists():
        raise InputError(f"{source}: no such file; correct the path")
    chosen = checked(params)
    loading("import")
    from tgo.pipeline.scoring import import_ratings
    from tgo.pipeline.sources.image_table import Source
    from tgo.pipeline.sources.rating_values import parse_labels

    columns = {
        "rating": rating_column,
        "prompt": prompt_column,
        "image": image_column,
        "id": id_column,
        "count": count_column,
        "views": views_column,
        "domain": domain_column,
    }
    summary = import_ratings.run(
        chosen,
        Source(
            source,
            format=format.value if format else None,
            images=images,
            columns=columns,
            unit=unit,
            split=split,
            labels=parse_labels(labels),
            keep=tuple(keep or ()),
            outside=outside,
        ),
        aggregate,
        dry_run=dry_run,
    )
    if summary:
        exit_by_failures(summary.failed, summary.images)


@app.command()
def inspect(
    folder: Annotated[Path, typer.Argument(help="A folder of scored shards.")] = SCORED,
    html: Annotated[
        Path | None, typer.Option(help="Write a page with histograms and images, too.")
    ] = None,
    images: Annotated[
        int, typer.Option(min=1, help="Best, median and worst images in the page, each.")
    ] = 6,
    as_json: AsJson = False,
) -> None:
    """Show what scores look like: counts, quantiles, correlations; with --html the images, too.

    Example: tgo inspect data/scored --html reports/scores.html
    """
    from tgo.pipeline.tools import inspection

    found = inspection.look(folder)
    if as_json:
        print_json(inspection.as_json(found))
        return
    inspection.show(found)
    if html is not None:
        from tgo.pipeline.tools import inspection_page

        print(f"page: {inspection_page.write(found, html, images)}")


@app.command()
def sql(
    query: Annotated[str, typer.Argument(help="Over the tables scored, labelled and images.")],
    scored: Annotated[Path, typer.Option(help="The folder of scored shards.")] = SCORED,
    labelled: Annotated[Path, typer.Option(help="The folder of labels.")] = LABELLED,
    rows: Annotated[int, typer.Option(min=1, help="Rows shown at most.")] = 100,
    csv: Annotated[bool, typer.Option("--csv", help="Print all rows, as CSV.")] = False,
) -> None:
    """Ask DuckDB about the shards.

    Example: tgo sql "select domain, avg(clip) from scored group by 1"
    """
    from tgo.pipeline.tools import sql

    answer = sql.ask(query, scored=scored, labelled=labelled)
    if csv:
        sql.write_csv(answer)
    else:
        sql.show(answer, rows)


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
    """Score images that are already there; run again, it goes on where it was.

    Example: tgo score-images pictures --prompts prompts.csv --output scores.parquet
    """
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
    exit_by_failures(score_images.count_failed(table), table.num_rows)


@app.command(hidden=True, context_settings={"ignore_unknown_options": True})
def rate(arguments: Annotated[list[str] | None, typer.Argument()] = None) -> None:
    """The name of `score-images` in earlier versions."""
    raise InputError(
        "tgo rate: is `tgo score-images` now, with the same options; rating is what people do"
    )
