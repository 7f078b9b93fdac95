"""Feedback that people have given: rated pictures from a table, a dataset, or comparisons.

Every source comes down to ratings of (picture, prompt); several of one are averaged and counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from tgo.pipeline.errors import InputError
from tgo.pipeline.sources import labelled_folders, rating_layouts
from tgo.pipeline.sources.image_table import ImageTable, Source
from tgo.pipeline.sources.pictures import Location, Pictures
from tgo.pipeline.sources.prompts import id_of
from tgo.pipeline.sources.rating_rows import Rating, RatingRows


class RatedImage(NamedTuple):
    """A picture of a prompt with all its ratings."""

    id: str
    prompt: str
    domain: str
    replicate: int
    """Its number among the prompt's pictures, from 0."""
    rating: float
    n_ratings: int
    location: Location
    kept: tuple[str, ...] = ()


@dataclass
class Ratings:
    """All rated pictures, those of a prompt together, prompts as they first come."""

    name: str
    unit: str
    pictures: Pictures
    images: list[RatedImage] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    recognised: str = ""
    """What the source was taken for, in words."""
    keep: tuple[str, ...] = ()
    """The names of the columns whose values are kept."""

    @property
    def summary(self) -> str:
        """How many of what, in one line."""
        prompts = len({image.prompt for image in self.images})
        ratings = sum(image.n_ratings for image in self.images)
        return (
            f"{self.name}: {len(self.images):,} images of {prompts:,} prompts, "
            f"{ratings:,} ratings ({self.unit}); taken for {self.recognised}"
        )


def read(source: Source) -> Ratings:
    """The ratings of a source; nothing is decoded.

    Args:
        source: a table, a dataset, tar files, or a folder of good and bad pictures.

    Returns:
        The rated pictures, each with the mean of its ratings.

    Raises:
        InputError: naming source and row where it cannot be read, has no column of pictures,
            prompts or ratings, or holds a rating that is no finite number; and if it rates nothing.
    """
    if classes := labelled_folders.find(source):
        found = labelled_folders.read(source, classes)
        images = _averaged(found)
        pictures = Pictures(folder=None if source.outside else source.images or classes.folder)
        recognised = f"folders of pictures, {classes}"
        return Ratings(source.name, source.unit or "liked", pictures, images, [], recognised)
    table = ImageTable(source)
    rows = RatingRows(table)
    layout = rating_layouts.detect(table)
    ratings, unit = layout.read(rows)
    images = _averaged(ratings)
    if not images:
        notes = f" ({'; '.join(rows.notes())})" if rows.notes() else ""
        raise InputError(
            f"{table.name}: rates no picture{notes}; docs/data.md says how it should look"
        )
    return Ratings(
        source.name,
        source.unit or f"{unit}{rows.scale}",
        table.pictures,
        images,
        rows.notes(),
        f"{table.kind}, {layout.description}",
        tuple(source.keep),
    )


def _averaged(ratings: Iterable[Rating]) -> list[RatedImage]:
    """One entry a picture and prompt, with its mean rating, the pictures of a prompt together."""
    by_prompt: dict[str, dict[str, list[Rating]]] = {}
    prompts_of: dict[str, int] = {}
    for rating in ratings:
        of_prompt = by_prompt.setdefault(rating.prompt, {})
        if rating.key not in of_prompt:
            prompts_of[rating.key] = prompts_of.get(rating.key, 0) + 1
        of_prompt.setdefault(rating.key, []).append(rating)
    images = []
    for prompt, of_prompt in by_prompt.items():
        for replicate, (key, several) in enumerate(of_prompt.items()):
            count = sum(rating.times for rating in several)
            mean = math.fsum(rating.value * rating.times for rating in several) / count
            own = key if prompts_of[key] == 1 else f"{key}@{id_of(prompt)}"
            first = several[0]
            images.append(
                RatedImage(
                    own, prompt, first.domain, replicate, mean, count, first.location, first.kept
                )
            )
    return images
