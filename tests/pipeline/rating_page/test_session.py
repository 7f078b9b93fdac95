"""Who is asked what, what an answer becomes on disk, and what a killed server keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.rating_page import folders
from tgo.pipeline.errors import InputError
from tgo.pipeline.rating_page import pictures, questions
from tgo.pipeline.rating_page.answers import CHECKS, TABLE, Answers
from tgo.pipeline.rating_page.questions import Question
from tgo.pipeline.rating_page.session import Options, Session
from tgo.pipeline.sources import ratings
from tgo.pipeline.sources.image_table import Source

SETUP = {"kind": "single", "scale": 5}


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folders.write(tmp_path_factory.mktemp("asked") / "scored", 40)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "ratings"


def singles(scored: Path) -> list[Question]:
    return questions.singles(pictures.read(scored))


def begin(asked: list[Question], output: Path, gold: Any = None, **options: Any) -> Session:
    return Session(asked, Answers(output, SETUP), Options(**{"repeat_share": 0, **options}), gold)


def rate(session: Session, rater: str, value: Any = 3) -> str:
    """Answer the rater's question; returns its key."""
    asked = session.next(rater)
    assert asked is not None
    session.answer(rater, asked.question.key, [value] * len(asked.shown), 2.0)
    return asked.question.key


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_answer_is_a_row_that_import_reads(scored: Path, output: Path) -> None:
    session = begin(singles(scored), output)
    keys = [rate(session, "ada", value) for value in (5, 1, 2)]
    rate(session, "bob", 4)
    written = rows(output / TABLE)
    assert [row["rating"] for row in written] == [5, 1, 2, 4]
    assert [row["id"] for row in written][:3] == keys
    found = ratings.read(Source(str(output)))
    assert sum(image.n_ratings for image in found.images) == 4
    by_id = {image.id: image.rating for image in found.images}
    assert by_id[keys[1]] == 1
    shown = next(image for image in found.images if image.id == keys[0])
    number = int(keys[0].removeprefix("r"))
    assert found.pictures.read(shown.location) == folders.png(number)


def test_pairs_are_written_by_their_folders_not_by_their_sides(
    scored: Path, output: Path, tmp_path: Path
) -> None:
    tuned = folders.write(tmp_path / "tuned", 40, first=100)
    compared = questions.comparisons(pictures.read(scored), pictures.read(tuned))
    session = begin(compared, output)
    for _ in range(20):
        asked = session.next("ada")
        assert asked is not None
        tuned_side = "left" if asked.shown[0].path.parent == tuned else "right"
        session.answer("ada", asked.question.key, [tuned_side], 1.0)
    written = rows(output / TABLE)
    assert {row["preferred"] for row in written} == {"b"}
    assert {row["left"] for row in written} == {"a", "b"}  # shown on either side
    found = ratings.read(Source(str(output)))
    assert sorted(image.rating for image in found.images) == [0.0] * 20 + [1.0] * 20


def test_the_next_question_is_the_least_answered_one(scored: Path, output: Path) -> None:
    session = begin(singles(scored), output)
    first = [rate(session, "ada") for _ in range(5)]
    others = [rate(session, "bob") for _ in range(34)]
    assert not set(first) & set(others)
    assert rate(session, "bob") in first


def test_two_raters_who_ask_at_once_get_different_questions(scored: Path, output: Path) -> None:
    session = begin(singles(scored), output, votes=1)
    both = {session.next(rater).question.key for rater in ("ada", "bob")}  # type: ignore[union-attr]
    assert len(both) == 2
    while session.next("ada"):
        rate(session, "ada")
    rate(session, "bob")
    assert session.next("bob") is None
    assert len(session.answers.rows) == 39


def test_an_answer_sent_twice_counts_once(scored: Path, output: Path) -> None:
    session = begin(singles(scored), output)
    key = rate(session, "ada")
    session.answer("ada", key, [1], 1.0)
    assert [row["rating"] for row in rows(output / TABLE)] == [3]


@pytest.mark.parametrize("values", [[0], [6], [3.5], [True], ["3"], [None], [], [3, 3]])
def test_what_is_no_rating_is_refused(scored: Path, output: Path, values: list[Any]) -> None:
    session = begin(singles(scored), output)
    asked = session.next("ada")
    assert asked is not None
    with pytest.raises(InputError, match="ratings from 1 to 5"):
        session.answer("ada", asked.question.key, values, 1.0)
    assert not (output / TABLE).exists()
    assert session.next("ada") == asked


def test_skipped_questions_are_not_asked_again_and_undo_asks_again(
    scored: Path, output: Path
) -> None:
    session = begin(singles(scored), output)
    asked = session.next("ada")
    assert asked is not None
    session.skip("ada", asked.question.key)
    assert rate(session, "ada") != asked.question.key
    session.undo("ada")
    session.undo("ada")
    assert session.next("ada") == asked
    session.undo("ada")  # nothing is left to undo
    assert rows(output / TABLE) == rows(output / CHECKS) == []


def test_undo_takes_nothing_of_another_rater(scored: Path, output: Path) -> None:
    session = begin(singles(scored), output)
    for rater in ("ada", "bob", "ada"):
        rate(session, rater)
    session.undo("ada")
    assert [row["rater"] for row in rows(output / TABLE)] == ["ada", "bob"]


def test_repeats_and_known_answers_test_a_rater_and_are_no_feedback(
    scored: Path, output: Path
) -> None:
    gold = {"r0": 5.0, "r1": 1.0, "r2": 3.0}
    session = begin(singles(scored), output, gold, repeat_share=0.3, gold_share=0.3, seed=1)
    while session.next("ada"):
        rate(session, "ada", 5)
    assert len(rows(output / TABLE)) == 36
    checks = rows(output / CHECKS)
    assert {row["check"] for row in checks} == {"gold", "repeat"}
    known = [row["question"] for row in checks if row["check"] == "gold"]
    assert sorted(known) == ["r0", "r1", "r2"]
    progress = session.progress("ada")
    assert progress["gold"] == {"right": 1, "of": 3}
    assert progress["repeats"]["right"] == progress["repeats"]["of"] > 0
    again = [row["question"] for row in checks if row["check"] == "repeat"]
    assert len(set(again)) == len(again)


def test_agreement_of_raters_is_krippendorffs_alpha(scored: Path, output: Path) -> None:
    session = begin(singles(scored), output)
    for value in (1, 2, 3, 4, 5) * 3:
        rate(session, "ada", value)
    assert session.progress("ada")["alpha"] is None
    told = {row["question"]: row["rating"] for row in rows(output / TABLE)}
    for rater, change in (("bob", 0), ("eve", 1)):
        while asked := session.next(rater):
            value = told.get(asked.question.key, 1)
            rate(session, rater, value if not change else 6 - value)
    assert -1 < session.progress("ada")["alpha"] < 0.5


def test_a_server_that_was_killed_goes_on_where_it_was(scored: Path, output: Path) -> None:
    session = begin(singles(scored), output, repeat_share=0.2)
    for value in (1, 5, 2, 4) * 4:
        rate(session, "ada", value)
    pending = session.next("ada")
    again = begin(singles(scored), output, repeat_share=0.2)
    assert again.next("ada") == pending
    assert again.answers.rows == session.answers.rows
    again.undo("ada")
    session.undo("ada")
    assert again.answers.rows == session.answers.rows


def test_half_an_answer_is_cut_off(scored: Path, output: Path) -> None:
    grids = questions.grids(pictures.read(scored))
    session = Session(grids, Answers(output, SETUP), Options(repeat_share=0))
    rate(session, "ada")
    rate(session, "ada")
    whole = (output / TABLE).read_bytes()
    for lost in (1, 40, whole.count(b"\n") and len(whole.splitlines()[-1]) + 1):
        (output / TABLE).write_bytes(whole[:-lost])
        kept = Answers(output, SETUP).rows
        assert len(kept) == 2
        assert (output / TABLE).read_bytes() == b"".join(whole.splitlines(keepends=True)[:2])


def test_answers_of_other_questions_are_not_mixed(scored: Path, output: Path) -> None:
    begin(singles(scored), output)
    with pytest.raises(InputError, match="holds answers with scale 5, and now it is 3"):
        Answers(output, {"kind": "single", "scale": 3})
    (output / TABLE).write_text("{}\n")
    with pytest.raises(InputError, match="line 1: is no answer"):
        Answers(output, SETUP)


def test_a_folder_of_others_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(InputError, match="holds no answers"):
        Answers(tmp_path, SETUP)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]
