"""Thresholds that look at the shape of the distribution: Otsu's, and a mixture of two normals.

Both work on counts in `BINS` equal bins between the lowest and the highest score. Counts add up
over shards in any order, so the result does not depend on it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

BINS = 4096
_STEPS = 500  # of expectation maximisation; a well-parted mixture needs about 50
_TOLERANCE = 1e-9  # change of the mean log-likelihood that ends it

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


class Range(NamedTuple):
    """The lowest and the highest score."""

    low: float
    high: float

    @property
    def width(self) -> float:
        """Of one bin; 0 if all scores are equal."""
        return (self.high - self.low) / BINS

    def bins(self, scores: NDArray[np.float32]) -> NDArray[np.int64]:
        """The bin of each score, int64 [n]."""
        if not self.width:
            return np.zeros(len(scores), np.int64)
        found = ((scores.astype(np.float64) - self.low) / self.width).astype(np.int64)
        return np.clip(found, 0, BINS - 1)

    def edge(self, place: float) -> float:
        """The score at a place counted in bins from the lowest score."""
        return self.low + place * self.width


def otsu(counts: Counts, span: Range) -> float:
    """The cut with the greatest variance between the two classes (Otsu, 1979).

    Where a gap between the classes makes several cuts equally good, the middle of the gap. Scores
    of a single bin have nothing to part: its lower edge.
    """
    filled = np.flatnonzero(counts)
    if len(filled) == 1:
        return span.edge(float(filled[0]))
    places = np.arange(BINS) + 0.5
    below = np.cumsum(counts)[:-1].astype(np.float64)
    above = counts.sum() - below
    sums = np.cumsum(counts * places)
    with np.errstate(invalid="ignore", divide="ignore"):
        apart = sums[:-1] / below - (sums[-1] - sums[:-1]) / above
        between = np.where((below > 0) & (above > 0), below * above * apart**2, -1.0)
    best = np.flatnonzero(between >= between.max() * (1 - 1e-12))  # not below 0: two bins filled
    return span.edge(float(best.mean()) + 1)


class Mixture(NamedTuple):
    """Two normal components, the lower first; places in the score's unit."""

    share: tuple[float, float]
    mean: tuple[float, float]
    std: tuple[float, float]


def fit_mixture(counts: Counts, span: Range) -> Mixture:
    """Two normals by expectation maximisation (Dempster, Laird and Rubin, 1977), begun at Otsu's.

    A component's standard deviation is kept above half a bin, which no likelihood can resolve.
    """
    filled = np.flatnonzero(counts)
    places: Floats = filled.astype(np.float64) + 0.5
    weight: Floats = counts[filled].astype(np.float64) / counts.sum()
    cut = (otsu(counts, span) - span.low) / span.width
    upper: Floats = (places >= cut).astype(np.float64)
    before = -np.inf
    for _ in range(_STEPS):
        share, mean, std = _maximise(places, weight, upper)
        logs = np.stack(
            [
                np.log(p) - np.log(s) - ((places - m) / s) ** 2 / 2
                for p, m, s in zip(share, mean, std, strict=True)
            ]
        )
        likelihood = np.logaddexp(logs[0], logs[1])
        upper = np.exp(logs[1] - likelihood).astype(np.float64)
        now = float(weight @ likelihood)
        if now - before < _TOLERANCE:
            break
        before = now
    order = np.argsort(mean)
    return Mixture(
        *(
            tuple(float(values[k]) for k in order)  # type: ignore[arg-type]
            for values in (share, span.low + mean * span.width, std * span.width)
        )
    )


def mixture(counts: Counts, span: Range) -> float:
    """Where a score is as likely of the upper as of the lower component, between their means.

    Scores of a single bin have no components: its lower edge.
    """
    filled = np.flatnonzero(counts)
    if len(filled) == 1:
        return span.edge(float(filled[0]))
    found = fit_mixture(counts, span)
    low, high = found.mean
    grid = np.linspace(low, high, 2 * BINS + 1)
    logs = [
        np.log(p) - np.log(s) - ((grid - m) / s) ** 2 / 2 for p, m, s in zip(*found, strict=True)
    ]
    # where one component outweighs the other all the way, the end where they are closest
    return float(grid[np.abs(logs[1] - logs[0]).argmin()])


def _maximise(places: Floats, weight: Floats, upper: Floats) -> tuple[Floats, Floats, Floats]:
    parts = np.stack([1 - upper, upper]) * weight
    share = np.maximum(parts.sum(axis=1), 1e-12)
    mean = parts @ places / share
    variance = (parts * (places - mean[:, None]) ** 2).sum(axis=1) / share
    return share / share.sum(), mean, np.sqrt(np.maximum(variance, 0.25))
