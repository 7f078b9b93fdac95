"""Exact order statistics of float32 scores, without sorting and in one megabyte.

Bits of a float, read as an unsigned integer with the sign handled, sort like the float. Two
histogram passes then find any order statistic exactly: one over the upper 16 bits of these keys,
one over the lower 16 bits inside the bins that hold the wanted ranks. Histograms of shards add
up, so number, order and place of the shards change nothing.

Definition. The percentile p of n scores is the smallest score s with at least p % of the scores
<= s: the order statistic of rank max(ceil(n p / 100), 1), `inverted_cdf` in NumPy, the *lower* of
the two candidates where p falls between two scores, and never an interpolated value. Therefore

    share(s > threshold)  <=  1 - p / 100  <=  share(s >= threshold):

the share of positives is 1 - p/100 up to the scores that equal the threshold, whichever way the
tie rule counts those (in the limit one row of n, if no two scores are equal).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

BINS = 1 << 16
_SIGN = np.uint32(1 << 31)

Scores = NDArray[np.float32]
Keys = NDArray[np.uint32]


def rank(count: int, percentile: float) -> int:
    """1-based rank of the percentile among `count` scores, in exact arithmetic."""
    # repr: 70.1 means seventy point one, not the binary fraction next to it
    return max(-(-count * Fraction(repr(percentile)) // 100), 1)


def to_keys(scores: Scores) -> Keys:
    """uint32 keys that sort like the scores (no NaN among them); -0.0 becomes 0.0."""
    bits = (np.asarray(scores, np.float32) + np.float32(0)).view(np.uint32)
    return np.where(bits & _SIGN, ~bits, bits | _SIGN)


def from_keys(keys: Keys) -> Scores:
    """The scores of keys; inverse of `to_keys`."""
    keys = np.asarray(keys, np.uint32)
    return np.where(keys & _SIGN, keys & ~_SIGN, ~keys).view(np.float32)


class Coarse:
    """First pass: how many scores have each upper half of the key; NaN apart."""

    def __init__(self) -> None:
        self.counts = np.zeros(BINS, np.int64)
        self.missing = 0

    def add(self, scores: Scores) -> None:
        """Count scores; NaN are `missing`."""
        numbers = scores[~np.isnan(scores)]
        self.missing += len(scores) - len(numbers)
        self.counts += np.bincount(to_keys(numbers) >> 16, minlength=BINS)

    def merge(self, other: Coarse) -> None:
        """Take in what another pass (another shard, another machine) has counted."""
        self.counts += other.counts
        self.missing += other.missing

    @property
    def total(self) -> int:
        """Scores counted, NaN not among them."""
        return int(self.counts.sum())

    def locate(self, ranks: Sequence[int]) -> list[tuple[int, int]]:
        """Per 1-based rank its bin and its rank inside that bin."""
        until = np.cumsum(self.counts)
        bins = np.searchsorted(until, ranks)
        return [
            (int(bin_), int(rank_ - until[bin_] + self.counts[bin_]))
            for bin_, rank_ in zip(bins, ranks, strict=True)
        ]


class Fine:
    """Second pass: how many scores of chosen coarse bins have each lower half of the key."""

    def __init__(self, bins: Iterable[int]) -> None:
        self.counts = {bin_: np.zeros(BINS, np.int64) for bin_ in sorted(set(bins))}

    def add(self, scores: Scores) -> None:
        """Count the scores that lie in the chosen bins."""
        keys = to_keys(scores[~np.isnan(scores)])
        for bin_, counts in self.counts.items():
            inside = keys[keys >> 16 == bin_]
            counts += np.bincount(inside & np.uint32(BINS - 1), minlength=BINS)

    def merge(self, other: Fine) -> None:
        """Take in what another pass over the same bins has counted."""
        for bin_, counts in self.counts.items():
            counts += other.counts[bin_]

    def score_at(self, bin_: int, rank_inside: int) -> float:
        """The score of a 1-based rank inside a chosen bin."""
        lower = int(np.searchsorted(np.cumsum(self.counts[bin_]), rank_inside))
        return float(from_keys(np.array(bin_ << 16 | lower, np.uint32)))


def percentiles(
    chunks: Callable[[], Iterable[Scores]], wanted: Sequence[float]
) -> tuple[list[float], int, int]:
    """Any number of percentiles (0 to 100) of scores that come in chunks, read twice.

    Args:
        chunks: gives the same scores, float32 [n] each, every time it is called.

    Returns:
        The percentiles, how many scores there are, and how many NaN were left out.

    Raises:
        ValueError: there is no score at all.
    """
    coarse = Coarse()
    for scores in chunks():
        coarse.add(scores)
    if not coarse.total:
        raise ValueError("percentiles of no scores")
    places = coarse.locate([rank(coarse.total, percentile) for percentile in wanted])
    fine = Fine(bin_ for bin_, _ in places)
    for scores in chunks():
        fine.add(scores)
    return [fine.score_at(*place) for place in places], coarse.total, coarse.missing
