"""`tgo ask`: from scored folders to a page on which people rate, and answers on disk."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from tgo.pipeline.errors import InputError
from tgo.pipeline.rating_page import pictures, questions
from tgo.pipeline.rating_page.answers import CHECKS, TABLE, Answers
from tgo.pipeline.rating_page.kinds import Kind, Order
from tgo.pipeline.rating_page.questions import Question
from tgo.pipeline.rating_page.server import application, serve
from tgo.pipeline.rating_page.session import Options, Session
from tgo.pipeline.sources import tables
from tgo.pipeline.storage.locks import hold

log = logging.getLogger(__name__)


def run(
    folders: Sequence[Path],
    output: Path,
    *,
    kind: Kind,
    order: Order,
    options: Options,
    labelled: Path | None = None,
    gold: Path | None = None,
    instructions: str = "",
    host: str = "127.0.0.1",
    port: int = 8000,
) -> None:
    """Serve the page until Ctrl-C; run again, it goes on where it was.

    Args:
        folders: A scored folder, or two of the same images to compare.
        output: The folder of answers; its lock is held meanwhile.
        kind: What a question shows; two folders are always compared.
        order: Which questions come first.
        options: What holds for all raters.
        labelled: Labels, for the order `uncertain`.
        gold: A table of known answers.
        instructions: A text above every question.
        host: The address to listen at.
        port: Its port.

    Raises:
        InputError: a folder, a table or the port cannot be used.
    """
    asked = find(folders, kind, order, options.seed, labelled)
    known = questions.expected(asked, read_gold(gold)) if gold else {}
    kind = asked[0].kind
    setup = {
        "kind": kind.value,
        "scale": options.scale if kind is not Kind.pair else None,
        "folders": [folder.resolve().name for folder in folders],
        "seed": options.seed,
    }
    with hold(output):
        session = Session(asked, Answers(output, setup), options, known)
        app, token = application(session, host=host, instructions=instructions)
        answered = len(session.answers.rows)
        log.info(
            "%s: %s questions%s; answers go to %s",
            " and ".join(map(str, folders)),
            f"{len(asked):,}",
            f", {len(known)} of them with known answers" if known else "",
            output / TABLE,
        )
        if answered:
            log.info("%s rows are there already; going on", f"{answered:,}")
        shown = f"[{host}]" if ":" in host else host
        log.info("open http://%s:%s/%s", shown, port, f"?token={token}" if token else "")
        try:
            serve(app, host, port)
        finally:
            log.info("%s", summary(session.answers))


def find(
    folders: Sequence[Path], kind: Kind, order: Order, seed: int, labelled: Path | None
) -> list[Question]:
    """The questions about one folder or two, in the order of asking.

    Args:
        folders: One, or two to compare.
        kind: What to show of one folder.
        order: Which come first.
        seed: Of what is random.
        labelled: The folder of labels.

    Returns:
        The questions.

    Raises:
        InputError: the folders cannot be asked about so.
    """
    found = [pictures.read(folder) for folder in folders]
    if len(found) == 2:
        if order is Order.uncertain:
            raise InputError("--order uncertain: is of one folder; compare two by another order")
        return questions.arrange(questions.comparisons(*found), order, seed)
    if kind is Kind.pair:
        made = questions.pairs(found[0], seed)
    else:
        made = questions.singles(found[0]) if kind is Kind.single else questions.grids(found[0])
    return questions.arrange(made, order, seed, labelled)


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
    raters = {row["rater"] for row in answers.rows}
    asked = {(row["rater"], row["question"]) for row in answers.rows}
    return (
        f"{len(asked):,} answers of {len(raters)} raters in {answers.folder / TABLE} "
        f"({len(answers.checks):,} more in {CHECKS}); next: tgo import {answers.folder}"
    )
