"""The commands around data: prompt lists, ratings, and looking into the shards."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pipeline.layout import PARAMS

app = typer.Typer()


class Format(StrEnum):
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
    """Check prompt lists: how many, in which domains, and what is wrong on which line."""
    from pipeline import prompts, settings
    from pipeline.prompt_settings import PromptSet

    if sources:
        chosen = format.value if format else None
        wanted = [PromptSet.model_validate({"source": s, "format": chosen}) for s in sources]
    else:
        sets = settings.load(params).prompts
        wanted = [sets.train, sets.validation, *sets.tests.values()]
    for one in wanted:
        found = prompts.find(one)
        print(found.summary)
        for note in found.notes:
            print(f"  {note}")
