"""Argilla's records: as a data set, with lists of responses in columns, or as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tgo.pipeline.errors import InputError
from tgo.pipeline.sources.image_table import ImageTable
from tgo.pipeline.sources.rating_rows import Rating, RatingRows

_RESPONSES = ".responses"
"""How the column of a question's answers ends; beside it lie `.users` and `.status`."""
_NESTED = {"fields", "responses"}


def is_argilla(table: ImageTable) -> bool:
    """Whether a table has the columns of Argilla's records."""
    columns = set(table.columns)
    return columns >= _NESTED or any(name.endswith(_RESPONSES) for name in columns)


def read_argilla(rows: RatingRows) -> tuple[Iterator[Rating], str]:
    """Argilla's records; each submitted answer to one question is a rating."""
    if set(rows.table.columns) >= _NESTED:
        return _nested(rows), "rating"
    asked = (rows.asked("rating") or "").removesuffix(_RESPONSES)
    questions = [
        name.removesuffix(_RESPONSES)
        for name in rows.table.columns
        if name.endswith(_RESPONSES) and asked in ("", name.removesuffix(_RESPONSES))
    ]
    question = _one(rows.table.name, questions)
    columns = rows.columns(rating=f"{question}{_RESPONSES}")
    return _flat(rows, columns), question


def _flat(rows: RatingRows, columns: Mapping[str, str]) -> Iterator[Rating]:
    answers = columns["rating"]
    states, users = f"{answers}.status", f"{answers}.users"
    for number, values in rows.records(lists=[answers, states, users]):
        values_of = values.get(answers) or []
        if not isinstance(values_of, list):
            values_of = [values_of]
        found = [
            {"value": value, "status": state, "user_id": user}
            for value, state, user in zip(
                values_of,
                values.get(states) or [None] * len(values_of),
                values.get(users) or [None] * len(values_of),
                strict=False,
            )
        ]
        yield from _ratings(rows, number, values, columns, found)


def _nested(rows: RatingRows) -> Iterator[Rating]:
    names = {key: rows.asked(key) for key in ("image", "prompt", "id", "domain")}
    for number, record in rows.records():
        fields, responses = record.get("fields"), record.get("responses")
        if not isinstance(fields, Mapping) or not isinstance(responses, Mapping):
            raise InputError(
                f"{rows.table.where(number)}: needs objects under 'fields' and 'responses'; export "
                "the records again"
            )
        asked = rows.asked("rating")
        question = _one(rows.table.where(number), [q for q in responses if asked in (None, q)])
        columns = {
            key: name or next((each for each in rows.names[key] if each in fields), "")
            for key, name in names.items()
        }
        metadata = record.get("metadata")
        values = {**(metadata if isinstance(metadata, Mapping) else {}), **fields}
        columns["rating"] = question
        yield from _ratings(rows, number, values, columns, responses[question] or [])


def _ratings(
    rows: RatingRows,
    number: int,
    values: Mapping[str, Any],
    columns: Mapping[str, str],
    answers: Sequence[Any],
) -> Iterator[Rating]:
    """A rating for every answer of a record that was submitted."""
    prompt = rows.text(number, values, columns["prompt"])
    if not rows.table.has_picture(values, columns["image"]):
        rows.leave_out("records without a picture", number)
        return
    rated = False
    for answer in answers:
        for score in rows.values_of(number, columns["rating"], answer):
            rated = True
            if prompt is not None:
                rating = rows.rating(number, values, columns["image"], prompt, score)
                user = answer.get("user_id") if isinstance(answer, Mapping) else None
                own = values.get(columns["id"])
                yield rating._replace(
                    key=rating.key if own in (None, "") else str(own),
                    rater="" if user is None else str(user),
                )
    if not rated:
        rows.leave_out("records without a submitted answer", number)


def _one(where: str, questions: Sequence[str]) -> str:
    if len(questions) == 1:
        return questions[0]
    told = ", ".join(questions) or "none"
    raise InputError(f"{where}: needs one question and has {told}; choose with --rating-column")
