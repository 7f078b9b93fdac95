"""Label Studio's JSON export: tasks with `data` and `annotations`; ratings, choices or pairs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tgo.pipeline.errors import InputError
from tgo.pipeline.sources.pictures import label_studio_file
from tgo.pipeline.sources.rating_rows import PAIRS, Rating, RatingRows, compared


def read_label_studio(rows: RatingRows) -> tuple[Iterator[Rating], str]:
    """Label Studio's JSON: tasks with `data` and `annotations`; ratings, choices or pairs."""

    def ratings() -> Iterator[Rating]:
        for number, task in rows.records():
            data = task.get("data")
            data = data if isinstance(data, Mapping) else {}
            answers = list(_answers(task))
            if not answers:
                rows.leave_out("tasks without an answer", number)
            for rater, kind, value in answers:
                yield from _label_studio_answer(rows, number, data, rater, kind, value)

    return ratings(), "rating"


def _answers(task: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Rater, kind and value of every answer of a task that was not cancelled."""
    for annotation in task.get("annotations") or task.get("completions") or ():
        if annotation.get("was_cancelled"):
            continue
        by = annotation.get("completed_by")
        rater = by.get("email") or by.get("id") if isinstance(by, Mapping) else by
        for result in annotation.get("result") or ():
            kind = str(result.get("type", ""))
            if kind in ("rating", "number", "choices", "pairwise"):
                yield "" if rater is None else str(rater), kind, result.get("value") or {}


def _label_studio_answer(
    rows: RatingRows,
    number: int,
    data: Mapping[str, Any],
    rater: str,
    kind: str,
    value: Mapping[str, Any],
) -> Iterator[Rating]:
    prompt_column = rows.asked("prompt") or _first(data, rows.names["prompt"]) or "prompt"
    prompt = rows.text(number, data, prompt_column)
    if prompt is None:
        return
    if kind != "pairwise":
        column = rows.asked("image") or _first(data, rows.names["image"])
        for score in rows.values_of(number, "rating", dict(value)):
            yield _file_rating(rows, number, data, column, prompt, score, rater)
        return
    pair = next((pair for pair in PAIRS if data.keys() >= set(pair)), None)
    if pair is None:
        raise InputError(
            f"{rows.table.where(number)}: compares two pictures, but its data has only "
            f"{', '.join(data)}; name them {PAIRS[0][0]} and {PAIRS[0][1]}"
        )
    first = rows.preference(number, value.get("selected", "tie"), pair, data)
    both = [
        _file_rating(rows, number, data, column, prompt, score, rater)
        for column, score in zip(pair, (first, 1 - first), strict=True)
    ]
    yield from compared(both)


def _file_rating(
    rows: RatingRows,
    number: int,
    data: Mapping[str, Any],
    column: str | None,
    prompt: str,
    score: float,
    rater: str,
) -> Rating:
    """A rating of a picture that Label Studio names by an address on its own server."""
    name = str(data.get(column or "") or "")
    local = label_studio_file(name)
    return Rating(local, prompt, score, rows.table.locate_name(local), rater=rater)


def _first(values: Mapping[str, Any], names: Sequence[str]) -> str | None:
    return next((name for name in names if name in values), None)
