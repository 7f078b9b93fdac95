"""What is asked, and in which order."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
from scipy.stats import rankdata

from tgo.pipeline.errors import InputError
from tgo.pipeline.rating_page.kinds import Kind, Order
from tgo.pipeline.rating_page.pictures import Picture, by_prompt
from tgo.pipeline.storage import shards


@dataclass(frozen=True)
class Question:
    """One picture to rate, two to compare, or the pictures of a prompt to rate."""

    key: str
    """The ids of its pictures; the same in every run over the same folder."""
    kind: Kind
    pictures: tuple[Picture, ...]

    @property
    def prompt(self) -> str:
        """The prompt of all its pictures."""
        return self.pictures[0].prompt

    @property
    def domain(self) -> str:
        """The domain of its prompt."""
        return self.pictures[0].domain


def singles(pictures: Sequence[Picture]) -> list[Question]:
    """A question a picture."""
    return [Question(picture.id, Kind.single, (picture,)) for picture in pictures]


def grids(pictures: Sequence[Picture]) -> list[Question]:
    """A question a prompt, with all its pictures."""
    return [
        Question(key_of(found), Kind.grid, tuple(found)) for found in by_prompt(pictures).values()
    ]


def pairs(pictures: Sequence[Picture], seed: int) -> list[Question]:
    """Pictures of the same prompt, two by two at random, each in one pair at most.

    Args:
        pictures: Of one folder.
        seed: Of the choice.

    Returns:
        The pairs.

    Raises:
        InputError: no prompt has two pictures.
    """
    found = []
    for of_prompt in by_prompt(pictures).values():
        mixed = sorted(of_prompt, key=lambda picture: draw(seed, "pair", picture.id))
        found += [
            Question(key_of(two), Kind.pair, two)
            for two in zip(mixed[::2], mixed[1::2], strict=False)
        ]
    if not found:
        raise InputError(
            "--show pair: no prompt has two images here; name a second folder of the same images, "
            "or take --show single"
        )
    return found


def comparisons(
    first: Sequence[Picture], second: Sequence[Picture], name: str = ""
) -> list[Question]:
    """Pictures of the same id from two folders, such as those of base and tuned model.

    Args:
        first: The pictures that an answer `a` prefers.
        second: Those that an answer `b` prefers.
        name: Of the test set, where there are several.

    Returns:
        A pair an id that both folders have.

    Raises:
        InputError: they share no id of the same prompt.
    """
    others = {(picture.id, picture.prompt): picture for picture in second}
    found = [
        Question(
            f"{name}/{picture.id}" if name else picture.id,
            Kind.pair,
            (picture, others[picture.id, picture.prompt]),
        )
        for picture in first
        if (picture.id, picture.prompt) in others
    ]
    if not found:
        raise InputError(
            f"{second[0].path.parent}: shares no image id and prompt with {first[0].path.parent}; "
            "compare two folders made from the same prompts, as data/evaluated/base/TEST and "
            "data/evaluated/tuned/TEST"
        )
    return found


def key_of(pictures: Sequence[Picture]) -> str:
    """What tells the question from others: the ids of its pictures."""
    return "|".join(picture.id for picture in pictures)


def draw(seed: int, *parts: str) -> float:
    """A number from 0 to 1 that follows from a seed and texts alone."""
    digest = hashlib.sha256("\0".join([str(seed), *parts]).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def arrange(
    questions: Sequence[Question], order: Order, seed: int, labelled: Path | None = None
) -> list[Question]:
    """The questions in an order; ties at random.

    Args:
        questions: All of them.
        order: See `Order`.
        seed: Of what is random.
        labelled: The folder of labels; `uncertain` needs it.

    Returns:
        The same questions, the first to be asked first.

    Raises:
        InputError: the order needs what is not there: labels, or two reward models.
    """
    mixed = sorted(questions, key=lambda question: draw(seed, question.key))
    if order is Order.random:
        return mixed
    if order is Order.domain:
        return _in_turn(mixed, lambda question: question.domain)
    rank = _margins(mixed, labelled) if order is Order.uncertain else _agreement(mixed)
    return [mixed[n] for n in np.argsort(rank, kind="stable")]


def _in_turn(questions: Sequence[Question], group: Callable[[Question], str]) -> list[Question]:
    groups: dict[str, list[Question]] = {}
    for question in questions:
        groups.setdefault(group(question), []).append(question)
    rounds = zip_longest(*groups.values())
    return [question for each in rounds for question in each if question is not None]


def _margins(questions: Sequence[Question], labelled: Path | None) -> np.ndarray:
    """How far each question is from a toss-up, by the labels' scores ``[N]``."""
    if labelled is None or not shards.present(labelled):
        raise InputError(
            f"--order uncertain: {labelled} holds no labels; run `tgo label` first, or choose "
            "another order"
        )
    scores: dict[str, tuple[float, float]] = {}
    for path in shards.shard_paths(labelled):
        for row in shards.read_shard(path, ["id", "score", "threshold"]).to_pylist():
            if row["score"] is not None:
                scores[row["id"]] = row["score"], row["threshold"]
    unknown = np.inf  # a picture without a label is asked last

    def margin(question: Question) -> float:
        known = [scores[p.id] for p in question.pictures if p.id in scores]
        if len(known) < len(question.pictures):
            return unknown
        if question.kind is Kind.pair:
            return abs(known[0][0] - known[1][0])
        return float(np.mean([abs(score - threshold) for score, threshold in known]))

    found = np.array([margin(question) for question in questions])
    if not np.isfinite(found).any():
        raise InputError(
            f"--order uncertain: {labelled} has labels of other images; run `tgo label`, or name "
            "the folder with --labelled"
        )
    return found


def _agreement(questions: Sequence[Question]) -> np.ndarray:
    """How much the reward models agree on each question ``[N]``, in shares of their ranks."""
    names = sorted(set.intersection(*(set(p.scores) for q in questions for p in q.pictures)))
    if len(names) < 2:
        raise InputError(
            "--order disagree: needs images with the scores of two reward models; choose another "
            "order"
        )
    pictures = [picture for question in questions for picture in question.pictures]
    table = np.array([[picture.scores[name] for name in names] for picture in pictures])
    ranks = np.apply_along_axis(rankdata, 0, table) / len(table)
    start, found = 0, []
    for question in questions:
        mine = ranks[start : start + len(question.pictures)]
        start += len(mine)
        told = mine[0] - mine[1] if question.kind is Kind.pair else mine
        found.append(-float(np.std(told, axis=-1).mean()))
    return np.array(found)


def expected(
    questions: Sequence[Question], gold: Mapping[tuple[str, ...], float | str]
) -> dict[str, float | str]:
    """The known answers by question.

    Args:
        questions: All of them.
        gold: Known answers by the ids of a question's pictures.

    Returns:
        Those of the questions that have one, by key.

    Raises:
        InputError: no question has one.
    """
    found = {}
    for question in questions:
        ids = tuple(picture.id for picture in question.pictures)
        if ids in gold:
            found[question.key] = gold[ids]
        elif question.kind is Kind.pair and ids[::-1] in gold:
            found[question.key] = {"a": "b", "b": "a"}.get(str(gold[ids[::-1]]), "tie")
    if not found:
        raise InputError("--gold: none of its rows is about an image that is asked here")
    return found
