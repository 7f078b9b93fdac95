"""Label Studio's JSON export: tasks with `data` and `annotations`; ratings, choices or pairs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from tgo.pipeline.errors import InputError
from tgo.pipeline.sources.pictures import label_studio_file
from tgo.pipeline.sources.rating_rows import PAIRS, Rating, RatingRows, compared


class _Result(BaseModel):
    type: str = ""
    from_name: str = ""
    value: dict[str, Any] = {}


class _Annotation(BaseModel):
    was_cancelled: bool | None = None
    completed_by: int | str | dict[str, Any] | None = None
    result: list[_Result] = []


class _Task(BaseModel):
    data: dict[str, Any]
    annotations: list[_Annotation] | None = None
    completions: list[_Annotation] | None = None


class _Answer(NamedTuple):
    question: str
    """The name of the control that was answered, `from_name`."""
    rater: str
    kind: str
    value: Mapping[str, Any]


def read_label_studio(rows: RatingRows) -> tuple[Iterator[Rating], str]:
    """Label Studio's JSON: tasks with `data` and `annotations`; ratings, choices or pairs."""
    asked = rows.asked("rating")

    def ratings() -> Iterator[Rating]:
        questions: dict[str, None] = {}
        for number, values in rows.records():
            task = _task(rows, number, values)
            answers = [answer for answer in _answers(task) if asked in (None, answer.question)]
            if not answers:
                rows.leave_out("tasks without an answer", number)
            questions |= dict.fromkeys(answer.question for answer in answers)
            if len(questions) > 1:
                raise InputError(
                    f"{rows.table.where(number)}: several questions are answered, "
                    f"{', '.join(questions)}; choose one with --rating-column"
                )
            for answer in answers:
                yield from _rated(rows, number, task.data, answer)

    return ratings(), asked or "rating"


def _task(rows: RatingRows, number: int, values: Mapping[str, Any]) -> _Task:
    try:
        return _Task.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        is_other = first["type"] in ("model_type", "dict_type")
        told = "should be an object" if is_other else first["msg"]
        raise InputError(
            f"{rows.table.where(number)}: {place}: {told}; export the project as JSON again"
        ) from None


def _answers(task: _Task) -> Iterator[_Answer]:
    """Every answer of a task that was not cancelled."""
    for annotation in task.annotations or task.completions or ():
        if annotation.was_cancelled:
            continue
        by = annotation.completed_by
        rater = by.get("email") or by.get("id") if isinstance(by, dict) else by
        for result in annotation.result:
            if result.type in ("rating", "number", "choices", "pairwise"):
                who = "" if rater is None else str(rater)
                yield _Answer(result.from_name, who, result.type, result.value)


def _rated(
    rows: RatingRows, number: int, data: Mapping[str, Any], answer: _Answer
) -> Iterator[Rating]:
    prompt_column = rows.asked("prompt") or _first(data, rows.names["prompt"]) or "prompt"
    prompt = rows.text(number, data, prompt_column)
    if prompt is None:
        return
    if answer.kind != "pairwise":
        column = rows.asked("image") or _first(data, rows.names["image"]) or ""
        for score in rows.values_of(number, "rating", dict(answer.value)):
            if rows.table.has_picture(data, column):
                yield _file_rating(rows, data, column, prompt, score, answer.rater)
            else:
                rows.leave_out("answers without a picture", number)
        return
    pair = next((pair for pair in PAIRS if data.keys() >= set(pair)), None)
    if pair is None:
        raise InputError(
            f"{rows.table.where(number)}: compares two pictures, but its data has only "
            f"{', '.join(data)}; name them {PAIRS[0][0]} and {PAIRS[0][1]}"
        )
    if not all(rows.table.has_picture(data, column) for column in pair):
        rows.leave_out("comparisons that lack a picture", number)
        return
    first = rows.preference(number, answer.value.get("selected", "tie"), pair, data)
    both = [
        _file_rating(rows, data, column, prompt, score, answer.rater)
        for column, score in zip(pair, (first, 1 - first), strict=True)
    ]
    yield from compared(both)


def _file_rating(
    rows: RatingRows, data: Mapping[str, Any], column: str, prompt: str, score: float, rater: str
) -> Rating:
    """A rating of a picture that Label Studio names by an address on its own server."""
    local = label_studio_file(data[column])
    about = rows.about(data) | {"rater": rater}
    return Rating(local, prompt, score, rows.table.locate_name(local), **about)


def _first(values: Mapping[str, Any], names: Sequence[str]) -> str | None:
    return next((name for name in names if name in values), None)
