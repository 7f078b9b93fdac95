"""Simulated people who disagree: what each population likes, and how single raters judge.

A rater sees which promises of the caption a picture keeps and how well it is made; both come
from the scene that was drawn, never from the gold judge. Populations weigh these differently,
single raters deviate from their population, and every judgement is noisy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tgo.data.world.render import QUALITIES
from tgo.data.world.scene import Scene, Thing

MERITS = ("share", "whole", *QUALITIES, "clean")
"""What a judgement is made of, each in [0, 1]: the share of the caption's promises that are kept,
whether all are, the four qualities, and how free of deformations the things are."""

Array = NDArray[np.float32]


class Kept(NamedTuple):
    """`share` of the promises kept and `whole`, their product: 1 only if every one is kept."""

    share: float
    whole: float


class Wear(NamedTuple):
    """How much of a drawn thing is left, each in [0, 1]: of its outline, its colour, itself."""

    shape: float = 1.0
    colour: float = 1.0
    presence: float = 1.0


def kept(promised: Scene, drawn: Scene, wear: Sequence[Wear] | None = None) -> Kept:
    """How `drawn` keeps what `promised` says; promises on worn things count in part.

    Args:
        promised: a caption's scene; what it leaves open (size, place) is no promise.
        drawn: the scene in the picture, sizes and places said; its `relation` is that of the
            first two things, and it may hold things that nobody promised.
        wear: one for each drawn thing; None where all are flawless.

    Returns:
        The share of the promises kept, and their product.
    """
    worn = list(wear) if wear is not None else [Wear()] * len(drawn.things)
    pairs = _match(promised, drawn)
    credit = [float(promised.background == drawn.background)]
    credit.append(_right_number(len(promised.things), worn))
    for thing, index in zip(promised.things, pairs, strict=True):
        credit += _thing(thing, drawn.things[index], worn[index]) if index >= 0 else _none(thing)
    if promised.relation is not None:
        credit.append(_relation(promised.relation, drawn, pairs, worn))
    return Kept(share=float(np.mean(credit)), whole=float(np.prod(credit)))


_OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


def _match(promised: Scene, drawn: Scene) -> list[int]:
    """The drawn thing that stands for each promised one (-1: none), by colour and shape."""
    left = list(range(len(drawn.things)))
    found = []
    for thing in promised.things:
        alike = [
            2 * (drawn.things[i].colour == thing.colour) + (drawn.things[i].shape == thing.shape)
            for i in left
        ]
        best = int(np.argmax(alike)) if alike else -1
        found.append(left.pop(best) if best >= 0 and alike[best] > 0 else -1)
    return found


def _right_number(promised: int, worn: Sequence[Wear]) -> float:
    """1 if as many things are there as promised; a half-faded surplus or lack counts half."""
    presence = sorted((w.presence for w in worn), reverse=True)
    presence += [0.0] * (promised - len(presence))
    return float(np.prod(presence[:promised]) * np.prod([1 - p for p in presence[promised:]]))


def _thing(promised: Thing, drawn: Thing, wear: Wear) -> list[float]:
    credit = [
        (promised.colour == drawn.colour) * wear.colour * wear.presence,
        (promised.shape == drawn.shape) * wear.shape * wear.presence,
    ]
    if promised.size:
        credit.append((promised.size == drawn.size) * wear.presence)
    if promised.place:
        credit.append((promised.place == drawn.place) * wear.presence)
    return credit


def _none(promised: Thing) -> list[float]:
    return [0.0] * (2 + bool(promised.size) + bool(promised.place))


def _relation(said: str, drawn: Scene, pairs: Sequence[int], worn: Sequence[Wear]) -> float:
    if sorted(pairs) != [0, 1] or drawn.relation is None:
        return 0.0
    shown = drawn.relation if pairs[0] == 0 else _OPPOSITE[drawn.relation]
    return (shown == said) * min(worn[0].presence, worn[1].presence)


@dataclass(frozen=True)
class Population:
    """People with a common taste.

    Attributes:
        weights: of MERITS, in units of the noise of one judgement.
        charm: weight of share x mean quality: looks that count only in the right picture.
        spread: standard deviation of a rater's log-weights around the population's.
    """

    weights: dict[str, float]
    charm: float = 0.0
    spread: float = 0.4
    _vector: Array = field(init=False, repr=False)

    def __post_init__(self) -> None:
        vector = np.array([self.weights.get(merit, 0.0) for merit in MERITS], np.float32)
        object.__setattr__(self, "_vector", vector)

    def utility(self, merits: Array) -> Array:
        """The population's noiseless liking of pictures: merits [..., 7] to float32 [...]."""
        return self._liking(merits, self._vector)

    def _liking(self, merits: Array, weights: Array) -> Array:
        looks = merits[..., 2:].mean(axis=-1)
        return (merits * weights).sum(axis=-1) + self.charm * merits[..., 0] * looks

    def judge(self, rng: np.random.Generator, merits: Array) -> Array:
        """What one rater per row felt: merits [B, K, 7] of K pictures to float32 [B, K].

        Gumbel noise makes each comparison of two pictures Bradley-Terry and the order of all K
        Plackett-Luce (Yellott 1977).
        """
        deviation = rng.normal(0, self.spread, size=(len(merits), 1, len(MERITS)))
        felt = self._liking(merits, (self._vector * np.exp(deviation)).astype(np.float32))
        return (felt + rng.gumbel(size=felt.shape)).astype(np.float32)

    def rate(self, rng: np.random.Generator, merits: Array, voters: int = 5) -> Array:
        """Mean rating 1 to 10 by `voters` people (Murray et al. 2012): merits [B, 7] to [B].

        Weights are taken relative to their sum: nothing good is a 1, everything good a 10.
        """
        votes = []
        for _ in range(voters):
            deviation = rng.normal(0, self.spread, size=merits.shape)
            weights = self._vector * np.exp(deviation)
            liking = (merits * weights).sum(axis=-1) / weights.sum(axis=-1)
            votes.append(np.clip(np.rint(1 + 9 * liking + rng.normal(0, 1.2, len(merits))), 1, 10))
        return np.mean(votes, axis=0).astype(np.float32)


POPULATIONS = {
    "pickscore": Population(
        {
            "share": 8.0,
            "whole": 1.0,
            "contrast": 1.2,
            "sharpness": 1.2,
            "harmony": 1.2,
            "composition": 1.2,
            "clean": 1.5,
        },
        charm=1.0,
    ),
    "hpsv2": Population(
        {
            "share": 4.5,
            "whole": 0.5,
            "contrast": 0.8,
            "sharpness": 3.0,
            "harmony": 3.0,
            "composition": 0.5,
            "clean": 2.0,
        },
        charm=1.5,
    ),
    "imagereward": Population(
        {"share": 6.0, "whole": 3.0, "contrast": 0.3, "composition": 1.5, "clean": 0.7},
        spread=0.5,
    ),
    "aesthetic": Population(
        {"contrast": 3.0, "sharpness": 1.0, "harmony": 3.0, "composition": 1.0, "clean": 1.0}
    ),
}
