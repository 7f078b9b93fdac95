"""Exact order statistics of float32 scores, without sorting and in one megabyte.

Bits of a float, read as an unsigned integer with the sign handled, sort like the float. Two
histogram passes then find any order statistic exactly: one over the upper 16 bits of these keys,
one over the lower 16 bits of the scores that share the wanted one's upper half. Histograms of
shards add up, so number, order and place of the shards change nothing.

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

STATE_BYTES = 1 << 28
"""Bound of one histogram; 32 groups of 16-bit digits fit into a sixteenth of it."""
_BLOCK = 1 << 17  # rows at a time: temporaries stay in cache
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
    flipped = (bits.view(np.int32) >> 31).view(np.uint32)  # all bits of a negative number, or none
    flipped |= _SIGN
    flipped ^= bits
    return flipped


def from_keys(keys: Keys) -> Scores:
    """The scores of keys; inverse of `to_keys`."""
    keys = np.asarray(keys, np.uint32)
    return np.where(keys & _SIGN, keys & ~_SIGN, ~keys).view(np.float32)


_INFINITIES = tuple(to_keys(np.array([-np.inf, np.inf], np.float32)).tolist())


class Selection:
    """Order statistics of one or many groups of scores by radix histograms, exactly.

    Every pass reads all scores, counts one more digit of the keys that can still be the wanted
    ones, and narrows each wanted statistic to the scores that share its digits so far. With few
    groups a digit has 16 bits and two passes suffice; with more groups digits are shorter, so
    that the state stays near `STATE_BYTES`, and passes more.

        selection = Selection(groups=1, wanted=[50])
        while not selection.done:
            selection.advance(sum(selection.count(scores) for scores in parts))

    Counts of parts add up in any order: that is all the merging there is.
    """

    def __init__(self, wanted: Sequence[float], groups: int = 1, *, upper: bool = False) -> None:
        """`upper` takes the upper of two candidates where a percentile falls between them."""
        self._wanted, self.groups, self._upper = list(wanted), groups, upper
        self.bits = next((b for b in (16, 8) if groups << b <= STATE_BYTES >> 3), 4)
        self._known = 0  # leading bits decided so far
        self._prefix = np.zeros((len(self._wanted), groups), np.uint32)
        self._rank = np.zeros((len(self._wanted), groups), np.int64)
        self.sizes = np.zeros(groups, np.int64)
        """Scores per group, known after the first pass."""

    @property
    def done(self) -> bool:
        """Whether `values` is final."""
        return self._known == 32

    def count(self, scores: Scores, group: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """This pass's histogram of a part, int64 [wanted, groups, digits]; NaN are left out."""
        slots = len(self._wanted) if self._known else 1  # at first one serves every percentile
        found = np.zeros((slots, self.groups, 1 << self.bits), np.int64)
        if group is None and self._known:
            self._count_near(found, scores)
            return found
        for start in range(0, len(scores), _BLOCK):
            part = slice(start, start + _BLOCK)
            self._count(found, *_numbers(scores[part], None if group is None else group[part]))
        return found

    def _count_near(self, found: NDArray[np.int64], scores: Scores) -> None:
        """Count one group; keys are made only of the scores that can have a prefix."""
        for slot, (prefix,) in enumerate(self._prefix):
            first = int(prefix) << 32 - self._known
            ends = [first, first + (1 << 32 - self._known) - 1]
            low, high = from_keys(np.clip(ends, *_INFINITIES).astype(np.uint32))
            keys = to_keys(scores[(scores >= low) & (scores <= high)])
            # 0.0 equals -0.0, the end of the negative numbers, but is none of them
            alive = keys >> np.uint32(32 - self._known) == prefix
            found[slot] += self._histogram(keys[alive], None)

    def _count(self, found: NDArray[np.int64], keys: Keys, group: NDArray[np.int64] | None) -> None:
        if not self._known:
            found[0] += self._histogram(keys, group)
            return
        assert group is not None
        lead = keys >> np.uint32(32 - self._known)
        for slot, prefix in enumerate(self._prefix):
            alive = lead == prefix[group]
            found[slot] += self._histogram(keys[alive], group[alive])

    def advance(self, counts: NDArray[np.int64]) -> None:
        """Take in the summed histograms of one pass over all parts."""
        if not self._known:
            self.sizes = counts[0].sum(axis=1)
            for slot, percentile in enumerate(self._wanted):
                self._rank[slot] = ranks(self.sizes, percentile, upper=self._upper)
            counts = np.broadcast_to(counts, (len(self._wanted), *counts.shape[1:]))
        self._known += self.bits
        for slot in range(len(self._wanted)):
            until = np.cumsum(counts[slot], axis=1)
            digit = (until < self._rank[slot][:, None]).sum(axis=1)
            before = np.where(
                digit > 0, np.take_along_axis(until, np.maximum(digit - 1, 0)[:, None], 1)[:, 0], 0
            )
            self._rank[slot] -= before
            digit = np.minimum(digit, (1 << self.bits) - 1)  # an empty group has no digit
            self._prefix[slot] = self._prefix[slot] << np.uint32(self.bits) | digit.astype(
                np.uint32
            )

    def values(self) -> Scores:
        """The statistics, float32 [wanted, groups]; NaN for a group without scores."""
        found = from_keys(self._prefix)
        return np.where(self.sizes > 0, found, np.float32(np.nan))

    def _histogram(self, keys: Keys, group: NDArray[np.int64] | None) -> NDArray[np.int64]:
        shift = np.uint32(32 - self._known - self.bits)
        digit = keys >> shift
        if self._known:
            digit &= np.uint32((1 << self.bits) - 1)
        place = digit if group is None else group << self.bits | digit.astype(np.int64)
        size = self.groups << self.bits
        return np.bincount(place, minlength=size).reshape(self.groups, -1)


def _numbers(
    scores: Scores, group: NDArray[np.int64] | None
) -> tuple[Keys, NDArray[np.int64] | None]:
    """Keys and groups of the scores that are numbers."""
    there = ~np.isnan(scores)
    if not there.all():
        scores, group = scores[there], None if group is None else group[there]
    return to_keys(scores), group


def ranks(sizes: NDArray[np.int64], percentile: float, *, upper: bool) -> NDArray[np.int64]:
    """`rank`, or with `upper` the rank of the upper candidate, for many sizes."""
    share = Fraction(repr(percentile)) / 100
    over, under = share.numerator, share.denominator
    exact = [int(size) for size in sizes] if over >= 1 << 20 else sizes  # keep products in int64
    products = np.asarray(exact, object if over >= 1 << 20 else np.int64) * over
    found = products // under + 1 if upper else -(-products // under)
    return np.clip(found.astype(np.int64), 1, np.maximum(sizes, 1))


def percentiles(
    chunks: Callable[[], Iterable[Scores]], wanted: Sequence[float]
) -> tuple[list[float], int, int]:
    """Any number of percentiles (0 to 100) of scores that come in chunks, read twice.

    Args:
        chunks: gives the same scores, float32 [n] each, every time it is called.
        wanted: the percentiles, 0 to 100.

    Returns:
        The percentiles, how many scores there are, and how many NaN were left out.

    Raises:
        ValueError: there is no score at all.
    """
    selection, missing = Selection(wanted), 0
    while not selection.done:
        first = not selection.sizes.any()
        total: NDArray[np.int64] | int = 0
        for scores in chunks():
            total = total + selection.count(scores)
            missing += int(np.isnan(scores).sum()) if first else 0
        if isinstance(total, int) or (first and not total.any()):
            raise ValueError("percentiles of no scores")
        selection.advance(total)
    return selection.values()[:, 0].tolist(), int(selection.sizes[0]), missing
