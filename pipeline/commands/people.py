"""The commands around people's feedback: the page on which they rate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tgo.pipeline.commands.options import loading
from tgo.pipeline.documents import read_text
from tgo.pipeline.errors import InputError
from tgo.pipeline.layout import COMPARED, EVALUATED, LABELLED, RATINGS
from tgo.pipeline.rating_page.kinds import Kind, Order

app = typer.Typer()


@app.command()
def ask(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(help="A folder of scored images, or two of the same prompts to compare."),
    ] = None,
    compare: Annotated[
        bool,
        typer.Option("--compare", help="Base against tuned model, on the images of the test sets."),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The folder of answers and the pictures they are of."),
    ] = None,
    show: Annotated[
        Kind, typer.Option(help="One image, two of a prompt, or all of a prompt.")
    ] = Kind.single,
    scale: Annotated[int, typer.Option(min=2, max=9, help="The best rating; the worst is 1.")] = 5,
    order: Annotated[Order, typer.Option(help="Which questions come first.")] = Order.random,
    votes: Annotated[
        int | None,
        typer.Option(min=1, help="Raters a question needs; left out: everyone is asked all."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Questions a rater is asked at most.")
    ] = None,
    repeats: Annotated[
        float, typer.Option(min=0, max=0.5, help="Share of questions asked a second time.")
    ] = 0.05,
    gold: Annotated[
        Path | None, typer.Option(help="A table of known answers; they test the raters.")
    ] = None,
    gold_share: Annotated[
        float, typer.Option(min=0, max=0.5, help="Share of questions with a known answer.")
    ] = 0.1,
    instructions: Annotated[
        Path | None, typer.Option(help="A text file to show above every question.")
    ] = None,
    labelled: Annotated[Path, typer.Option(help="Labels, for --order uncertain.")] = LABELLED,
    seed: Annotated[int, typer.Option(min=0, help="Of order, pairs and sides.")] = 0,
    host: Annotated[
        str, typer.Option(help="Where to listen; anywhere else than here needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port to listen at.")] = 8000,
) -> None:
    """Let people rate images on a local page, or compare base and tuned model.

    Example: tgo ask data/scored, and then tgo import data/ratings
    """
    found = folders or []
    if compare == bool(found) or len(found) > 2:
        raise InputError(
            "tgo ask: takes one folder of scored images, two folders to compare, or --compare"
        )
    loading("ask")
    from tgo.pipeline.rating_page import ask as asking
    from tgo.pipeline.rating_page.session import Options

    text = read_text(instructions, "name a text file with --instructions") if instructions else ""
    if compare:
        topic = asking.about_models(EVALUATED, order, seed)
    elif len(found) == 2:
        topic = asking.about_two(found[0], found[1], order, seed)
    else:
        topic = asking.about_folder(found[0], show, order, seed, labelled)
    asking.run(
        topic,
        output or (COMPARED if compare else RATINGS),
        Options(
            scale=scale,
            votes=votes,
            limit=limit,
            gold_share=gold_share,
            repeat_share=repeats,
            seed=seed,
        ),
        gold=gold,
        instructions=text,
        host=host,
        port=port,
    )
