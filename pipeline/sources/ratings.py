"""Feedback that people have given: rated pictures from a table, a dataset, or pairs.

Every source comes down to ratings of (picture, prompt); several of one are averaged and counted.
Pick-a-Pic's comparisons rate a winner 1, a loser 0 and both of a tie 0.5, so that the mean is a
win rate. Diffusion-KTO's CSV names pictures that only won (1), only lost (0) or did both (0.5);
label.ties then decides what the last are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from tgo.pipeline.errors import InputError
from tgo.pipeline.sources.pictures import Pictures, Place
from tgo.pipeline.sources.prompts import id_of
from tgo.pipeline.sources.rating_tables import Rating, RatingTable, Source


class Rated(NamedTuple):
    """A picture of a prompt with all its ratings."""

    id: str
    prompt: str
    domain: str
    replicate: int
    """Its number among the prompt's pictures, from 0."""
    rating: float
    n_ratings: int
    place: Place


@dataclass
class Ratings:
    """All rated pictures, those of a prompt together, prompts as they first come."""

    name: str
    unit: str
    pictures: Pictures
    images: list[Rated] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def summary(self) -> str:
        """How many of what, in one line."""
        prompts = len({image.prompt for image in self.images})
        ratings = sum(image.n_ratings for image in self.images)
        return (
            f"{self.name}: {len(self.images):,} images of {prompts:,} prompts, "
            f"{ratings:,} ratings ({self.unit})"
        )


def read(source: Source) -> Ratings:
    """The ratings of a source; nothing is decoded.

    Raises InputError naming source and row where it cannot be read, has no column of pictures,
    prompts or ratings, or holds a rating that is no finite number; and if it rates nothing.
    """
    table = RatingTable(source)
    ratings, unit = table.ratings()
    images = _averaged(ratings)
    if not images:
        raise InputError(f"{table.name}: rates no picture; docs/data.md says how it should look")
    return Ratings(source.name, source.unit or unit, table.pictures, images, table.notes())


def _averaged(ratings: Iterable[Rating]) -> list[Rated]:
    """One entry a picture and prompt, with its mean rating, the pictures of a prompt together."""
    found: dict[str, dict[str, list[Rating]]] = {}
    prompts_of: dict[str, int] = {}
    for rating in ratings:
        of_prompt = found.setdefault(rating.prompt, {})
        if rating.key not in of_prompt:
            prompts_of[rating.key] = prompts_of.get(rating.key, 0) + 1
        of_prompt.setdefault(rating.key, []).append(rating)
    images = []
    for prompt, of_prompt in found.items():
        for replicate, (key, several) in enumerate(of_prompt.items()):
            count = sum(rating.times for rating in several)
            mean = math.fsum(rating.value * rating.times for rating in several) / count
            own = key if prompts_of[key] == 1 else f"{key}@{id_of(prompt)}"
            first = several[0]
            rated = Rated(own, prompt, first.domain, replicate, mean, count, first.place)
            images.append(rated)
    return images
