"""Feedback that people have given: rated pictures from a table, a dataset, or comparisons.

Every source comes down to ratings of (picture, prompt); several of one become one, with its error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from tgo.pipeline.errors import InputError
from tgo.pipeline.sources import labelled_folders, raters, rating_layouts
from tgo.pipeline.sources.aggregates import Aggregate
from tgo.pipeline.sources.image_table import ImageTable, Source
from tgo.pipeline.sources.pictures import Location, Pictures
from tgo.pipeline.sources.prompts import id_of
from tgo.pipeline.sources.raters import Agreement
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
    error: float | None = None
    """Standard error of the rating; None where nothing tells it."""


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
    how: Aggregate = Aggregate.mean
    """How several ratings of an image became one."""
    agreement: Agreement | None = None
    """How far its raters agree; None where it names fewer than two."""
    counted: str = "ratings"
    """What the numbers of ratings count: views, where a rating is clicks per view."""

    @property
    def summary(self) -> str:
        """How many of what, in one line."""
        prompts = len({image.prompt for image in self.images})
        ratings = sum(image.n_ratings for image in self.images)
        return (
            f"{self.name}: {len(self.images):,} images of {prompts:,} prompts, "
            f"{ratings:,} {self.counted} ({self.unit}); taken for {self.recognised}"
        )


def read(source: Source, how: Aggregate = Aggregate.mean) -> Ratings:
    """The ratings of a source; nothing is decoded.

    Args:
        source: a table, a dataset, tar files, or a folder of good and bad pictures.
        how: what becomes of several ratings of a picture.

    Returns:
        The rated pictures, each with one rating.

    Raises:
        InputError: naming source and row where it cannot be read, has no column of pictures,
            prompts or ratings, or holds a rating that is no finite number; and if it rates nothing.
    """
    if classes := labelled_folders.find(source):
        if source.keep:
            raise InputError(
                f"--keep {source.keep[0]}: {source.name} holds folders of pictures, which have no "
                "columns; leave it out"
            )
        found = list(labelled_folders.read(source, classes))
        pictures = Pictures(folder=None if source.outside else source.images or classes.folder)
        recognised = f"folders of pictures, {classes}"
        images = _joined(found, *raters.aggregate(found, how))
        return Ratings(source.name, source.unit or "liked", pictures, images, [], recognised)
    rows = RatingRows(ImageTable(source))
    layout = rating_layouts.detect(rows.table)
    ratings, unit = layout.read(rows)
    every = list(ratings)
    if not every:
        notes = f" ({'; '.join(rows.notes())})" if rows.notes() else ""
        raise InputError(
            f"{rows.table.name}: rates no picture{notes}; docs/data.md says how it should look"
        )
    rows.check_kept()
    if how is Aggregate.bradley_terry:
        unit = "log strength"
    table, values, errors = raters.aggregate(every, how)
    return Ratings(
        source.name,
        source.unit or f"{unit}{rows.scale}",
        rows.table.pictures,
        _joined(every, table, values, errors),
        rows.notes(),
        f"{rows.table.kind}, {layout.description}",
        tuple(source.keep),
        how,
        raters.agreement(table),
        "views" if table.are_rates else "ratings",
    )


def _joined(
    ratings: Sequence[Rating], found: raters.Table, values: raters.Floats, errors: raters.Floats
) -> list[RatedImage]:
    """One entry a picture and prompt, with one rating, the pictures of a prompt together."""
    count = found.sums(np.ones_like(found.value)).astype(int)
    first: dict[tuple[str, str], Rating] = {}
    for rating in ratings:
        first.setdefault((rating.prompt, rating.key), rating)
    prompts_of = Counter(key for _, key in found.items)
    by_prompt: dict[str, list[int]] = {}
    for number, (prompt, _) in enumerate(found.items):
        by_prompt.setdefault(prompt, []).append(number)
    images = []
    for prompt, numbers in by_prompt.items():
        for replicate, number in enumerate(numbers):
            one = first[found.items[number]]
            images.append(
                RatedImage(
                    one.key if prompts_of[one.key] == 1 else f"{one.key}@{id_of(prompt)}",
                    prompt,
                    one.domain,
                    replicate,
                    float(values[number]),
                    int(count[number]),
                    one.location,
                    one.kept,
                    None if np.isnan(errors[number]) else float(errors[number]),
                )
            )
    return images
