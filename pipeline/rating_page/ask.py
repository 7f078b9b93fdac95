"""`tgo ask`: from scored folders to a page on which people rate, and answers on disk."""

from __future__ import annotations

import logging
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tgo.pipeline.errors import InputError
from tgo.pipeline.evaluation import people
from tgo.pipeline.rating_page import pictures, questions
from tgo.pipeline.rating_page.answers import CHECKS, TABLE, Answers
from tgo.pipeline.rating_page.kinds import Kind, Order
from tgo.pipeline.rating_page.questions import Question
from tgo.pipeline.rating_page.server import application, serve
from tgo.pipeline.rating_page.session import Options, Session
from tgo.pipeline.sources import tables
from tgo.pipeline.storage.locks import hold

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Topic:
    """What is asked about.

    Attributes:
        title: The images, in words.
        questions: In the order of asking.
        setup: What later runs must share to go on with the same answers.
    """

    title: str
    questions: list[Question]
    setup: dict[str, Any]


def about_folder(
    folder: Path, kind: Kind, order: Order, seed: int, labelled: Path | None = None
) -> Topic:
    """The images of one scored folder.

    Args:
        folder: The folder.
        kind: What a question shows.
        order: Which come first.
        seed: Of what is random.
        labelled: Labels, for the order `uncertain`.

    Returns:
        The topic.

    Raises:
        InputError: the folder cannot be asked about so.
    """
    found = pictures.read(folder)
    if kind is Kind.pair:
        made = questions.pairs(found, seed)
    else:
        made = questions.singles(found) if kind is Kind.single else questions.grids(found)
    setup = {"kind": kind.value, "folders": [folder.resolve().name], "seed": seed}
    return Topic(str(folder), questions.arrange(made, order, seed, labelled), setup)


def about_two(first: Path, second: Path, order: Order, seed: int) -> Topic:
    """The images of two folders, compared by id.

    Args:
        first: The folder whose images an answer `a` prefers.
        second: The other one.
        order: Which pairs come first; not `uncertain`.
        seed: Of what is random.

    Returns:
        The topic.

    Raises:
        InputError: they hold no image of the same id.
    """
    _require_comparable(order)
    made = questions.comparisons(pictures.read(first), pictures.read(second))
    names = [folder.resolve().name for folder in (first, second)]
    setup = {"kind": Kind.pair.value, "folders": names, "seed": seed}
    return Topic(f"{first} and {second}", questions.arrange(made, order, seed), setup)


def about_models(evaluated: Path, order: Order, seed: int) -> Topic:
    """Base and tuned model, on all test sets.

    Args:
        evaluated: What the stage evaluate made.
        order: Which pairs come first; not `uncertain`.
        seed: Of what is random.

    Returns:
        The topic; `a` is the base model and `b` the tuned one.

    Raises:
        InputError: there are no evaluated images, or they are of different models.
    """
    _require_comparable(order)
    folders = {
        base.name: (base, evaluated / "tuned" / base.name)
        for base in sorted((evaluated / "base").glob("[!.]*/"))
    }
    if not folders:
        raise InputError(f"{evaluated}: holds no evaluated images; run `tgo evaluate` first")
    made = [
        question
        for name, (base, tuned) in folders.items()
        for question in questions.comparisons(pictures.read(base), pictures.read(tuned), name)
    ]
    setup = {"kind": Kind.pair.value, "seed": seed, **people.models(folders)}
    title = f"base and tuned model on {', '.join(folders)}"
    return Topic(title, questions.arrange(made, order, seed), setup)


def _require_comparable(order: Order) -> None:
    if order is Order.uncertain:
        raise InputError("--order uncertain: is of one folder; compare two by another order")


def run(
    topic: Topic,
    output: Path,
    options: Options,
    *,
    gold: Path | None = None,
    instructions: str = "",
    host: str = "127.0.0.1",
    port: int = 8000,
) -> None:
    """Serve the page until Ctrl-C; run again, it goes on where it was.

    Args:
        topic: What is asked about.
        output: The folder of answers; its lock is held meanwhile.
        options: What holds for all raters.
        gold: A table of known answers.
        instructions: A text above every question.
        host: The address to listen at.
        port: Its port.

    Raises:
        InputError: the folder of answers, the table or the port cannot be used.
    """
    known = questions.expected(topic.questions, read_gold(gold)) if gold else {}
    pairs = topic.questions[0].kind is Kind.pair
    setup = topic.setup | ({} if pairs else {"scale": options.scale})
    with hold(output):
        session = Session(topic.questions, Answers(output, setup), options, known)
        app, token = application(session, host=host, instructions=instructions)
        log.info(
            "%s: %s questions%s; answers go to %s",
            topic.title,
            f"{len(topic.questions):,}",
            f", {len(known)} of them with known answers" if known else "",
            output / TABLE,
        )
        if session.answers.rows:
            log.info("%s rows are there already; going on", f"{len(session.answers.rows):,}")
        asked = f"?token={token}" if token else ""
        log.info("open http://%s:%s/%s", _reached_by(host), port, asked)
        try:
            serve(app, host, port)
        finally:
            log.info("%s", summary(session.answers))


def read_gold(path: Path) -> dict[tuple[str, ...], float | str]:
    """Known answers of a table: columns id and rating, or id_a, id_b and preferred.

    Args:
        path: A table, such as what an expert answered (`metadata.jsonl`).

    Returns:
        Ratings, or a, b, tie, by the ids of a question's pictures.

    Raises:
        InputError: the table has other columns or values.
    """
    if not path.is_file():
        raise InputError(f"--gold {path}: no such file; correct the path")
    table = tables.read(str(path))
    found: dict[tuple[str, ...], float | str] = {}
    for number, values in table.records:
        if values is None:
            continue
        where = table.where(number)
        if "preferred" in values:
            ids = (str(values.get("id_a")), str(values.get("id_b")))
            word = str(values["preferred"]).strip().lower()
            if word not in ("a", "b", "tie"):
                raise InputError(f"{where}: preferred is {word!r}; write a, b or tie")
            found[ids] = word
        elif "id" in values and "rating" in values:
            try:
                found[(str(values["id"]),)] = float(values["rating"])
            except (TypeError, ValueError):
                raise InputError(
                    f"{where}: rating is {values['rating']!r:.40}; write a number"
                ) from None
        else:
            raise InputError(f"{where}: needs id and rating, or id_a, id_b and preferred")
    return found


def summary(answers: Answers) -> str:
    """How much was answered by how many, and what to do with it."""
    who = {row["rater"] for row in answers.rows}
    asked = {(row["rater"], row["question"]) for row in answers.rows}
    following = (
        "tgo evaluate" if people.MODELS[0] in answers.setup else f"tgo import {answers.folder}"
    )
    return (
        f"{len(asked):,} answers of {len(who)} raters in {answers.folder / TABLE} "
        f"({len(answers.checks):,} more in {CHECKS}); next: {following}"
    )


def _reached_by(host: str) -> str:
    """The name under which others reach an address that this machine listens at."""
    if host in ("0.0.0.0", "::"):
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host
