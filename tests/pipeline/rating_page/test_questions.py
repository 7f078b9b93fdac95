"""What is asked, and in which order."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pipeline.rating_page import folders
from tgo.pipeline.errors import InputError
from tgo.pipeline.rating_page import pictures, questions
from tgo.pipeline.rating_page.kinds import Kind, Order
from tgo.pipeline.rating_page.pictures import Picture
from tgo.pipeline.storage import shards


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[Picture]:
    return pictures.read(folders.write(tmp_path_factory.mktemp("asked") / "scored"))


def test_pictures_are_those_that_succeeded(found: list[Picture]) -> None:
    assert [picture.id for picture in found] == [f"r{n}" for n in range(11)]
    assert [picture.read() for picture in found] == [folders.png(n) for n in range(11)]
    assert found[3].scores == {"clip": 3.0, "aesthetic": 9.0}


def test_pairs_are_of_one_prompt_and_grids_hold_all_of_it(found: list[Picture]) -> None:
    pairs = questions.pairs(found, seed=0)
    assert len(pairs) == 5  # the eleventh picture is alone
    assert all(one.prompt == two.prompt for one, two in (pair.pictures for pair in pairs))
    assert [len(grid.pictures) for grid in questions.grids(found)] == [2, 2, 2, 2, 2, 1]
    lone = [found[0], found[2]]
    with pytest.raises(InputError, match="no prompt has two images"):
        questions.pairs(lone, seed=0)


def test_two_folders_are_compared_by_id(tmp_path: Path, found: list[Picture]) -> None:
    other = pictures.read(folders.write(tmp_path / "tuned", first=100))
    compared = questions.comparisons(found, other)
    assert [question.key for question in compared] == [picture.id for picture in found]
    assert compared[0].pictures[1].read() == folders.png(100)
    with pytest.raises(InputError, match="shares no image id"):
        questions.comparisons(found[:2], other[4:])


def test_domains_take_turns(found: list[Picture]) -> None:
    arranged = questions.arrange(questions.singles(found), Order.domain, seed=3)
    domains = [question.domain for question in arranged]
    assert all(set(domains[n : n + 2]) == {"cats", "dogs"} for n in range(0, 10, 2))


def test_uncertain_asks_what_is_nearest_its_threshold(tmp_path: Path, found: list[Picture]) -> None:
    rows = [f"r{n}" for n in range(11)]
    scores = pa.array(range(11), pa.float32())
    thresholds = pa.array([6.2] * 11, pa.float32())
    table = pa.table({"id": rows, "score": scores, "threshold": thresholds})
    shards.write_shard(tmp_path / shards.shard_name(0, 1), table)
    arranged = questions.arrange(questions.singles(found), Order.uncertain, 0, tmp_path)
    assert [question.key for question in arranged][:4] == ["r6", "r7", "r5", "r8"]
    with pytest.raises(InputError, match="run `tgo label` first"):
        questions.arrange(arranged, Order.uncertain, 0, tmp_path / "none")


def test_disagree_asks_where_reward_models_contradict_each_other(found: list[Picture]) -> None:
    arranged = questions.arrange(questions.singles(found), Order.disagree, seed=0)

    def apart(key: str) -> float:
        scores = next(picture for picture in found if picture.id == key).scores
        ranks = [
            sorted(p.scores[name] for p in found).index(scores[name]) for name in sorted(scores)
        ]
        return abs(ranks[0] - ranks[1])

    gaps = [apart(question.key) for question in arranged]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[0] > gaps[-1]


def test_gold_of_a_pair_holds_from_either_side(found: list[Picture]) -> None:
    pair = questions.pairs(found, seed=0)[0]
    one, two = (picture.id for picture in pair.pictures)
    assert questions.expected([pair], {(two, one): "a"}) == {pair.key: "b"}
    assert questions.expected([pair], {(one, two): "a"}) == {pair.key: "a"}
    with pytest.raises(InputError, match="none of its rows"):
        questions.expected([pair], {("x", "y"): "a"})


@given(seed=st.integers(0, 99), order=st.sampled_from([Order.random, Order.domain, Order.disagree]))
def test_every_order_asks_everything_once_and_again_the_same(
    found: list[Picture], seed: int, order: Order
) -> None:
    made = questions.singles(found)
    arranged = questions.arrange(made, order, seed)
    assert sorted(question.key for question in arranged) == sorted(q.key for q in made)
    assert arranged == questions.arrange(list(reversed(made)), order, seed)
    assert {question.kind for question in arranged} == {Kind.single}
