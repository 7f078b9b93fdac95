"""Mean and variance of float32 scores, exact before one last rounding.

Floating-point sums depend on their order, so shards in another order would move the threshold by
a bit. Here every partial sum is a whole number of known steps, which a double holds exactly in any
order, and whole numbers add up without rounding. Two ways lead there:

- Scores of one group, in blocks: those within `_SPAN` binades of the block's largest are multiples
  of one step, below 2^39 of them. Split at 2^20 steps, each half and each product of two halves
  stays so small that a sum over the block is below 2^53 steps: dot products are exact, whatever
  the order in which the library adds. (Extraction by a large constant: Rump, Ogita and Oishi,
  Accurate floating-point summation, 2008.)
- The others, and scores of several groups, binade by binade: within one binade all float32 are
  multiples of one step, and so are their products after a split into 12-bit halves.

The result is the correctly rounded double of the true moment, whatever the order of the rows.
"""

from __future__ import annotations

from fractions import Fraction
from math import isqrt, ldexp

import numpy as np
from numpy.typing import NDArray

BINADES = 512  # sign and exponent of a float32
_GROUPED_BLOCK = 1 << 16  # rows at a time: temporaries stay in cache (exact up to 2^28 rows)
_UPPER_HALF = np.uint32(0xFFFFF000)  # sign, exponent and the upper 11 stored mantissa bits
_BLOCK = 1 << 13
_SPAN = 15  # 2^(_SPAN + 24) steps times _BLOCK rows stay below 2^53
_SPLIT = 20  # bits of the lower half: both halves are at most 2^19 steps of their own
_MAGNITUDE = np.uint32((1 << 31) - 1)
_FINEST = 149  # every float32 is a multiple of 2^-149


class Moments:
    """Count, sum and, if `squares`, sum of squares, for `groups` groups; 16 KB a group at most."""

    def __init__(self, groups: int = 1, *, squares: bool = True) -> None:
        self.groups = groups
        self.count = np.zeros(groups, np.int64)
        self._sums = np.zeros((4 if squares else 1, groups, BINADES), np.int64)
        self._whole = [0, 0]
        """What blocks of group 0 add to its sums, in 2^-149 and 2^-298: numbers of any size."""

    def add(self, scores: NDArray[np.float32], group: NDArray[np.int64] | None = None) -> None:
        """Take in finite scores [n] of the groups [n] (numbers from 0; None: all in group 0)."""
        scores = np.ascontiguousarray(scores, np.float32)
        size = _BLOCK if group is None else _GROUPED_BLOCK
        for start in range(0, len(scores), size):
            part = slice(start, start + size)
            if group is None:
                self._add_block(scores[part])
            else:
                self._add_binades(scores[part], group[part])
                self.count += np.bincount(group[part], minlength=self.groups)
        if group is None:
            self.count[0] += len(scores)

    def merge(self, other: Moments) -> None:
        """Take in what was counted elsewhere."""
        self.count += other.count
        self._sums += other._sums
        self._whole = [own + others for own, others in zip(self._whole, other._whole, strict=True)]

    def mean(self, group: int = 0) -> float:
        """The mean, correctly rounded; NaN of an empty group."""
        count = int(self.count[group])
        return float(self._sum(group) / count) if count else float("nan")

    def std(self, group: int = 0) -> float:
        """The standard deviation (divisor n), correctly rounded; NaN of an empty group."""
        count = int(self.count[group])
        if not count:
            return float("nan")
        square = self._total(1, group) + 2 * self._total(2, group) + self._total(3, group)
        if group == 0:
            square += Fraction(self._whole[1], 1 << 2 * _FINEST)
        return _root(square / count - (self._sum(group) / count) ** 2)

    def _add_block(self, scores: NDArray[np.float32]) -> None:
        bits = scores.view(np.uint32) & _MAGNITUDE
        lowest = max((int(bits.max()) >> 23) - _SPAN, 1)  # exponent whose step all share
        values = scores.astype(np.float64)
        bits -= np.uint32(1)  # zero, a multiple of every step, becomes the largest
        finer = bits < np.uint32((lowest << 23) - 1)
        if lowest > 1 and finer.any():
            self._add_binades(scores[finer])
            values[finer] = 0
        step = lowest - 150
        self._whole[0] += _steps_of(float(values.sum()), step) << step + _FINEST
        if len(self._sums) > 1:
            extract = ldexp(1.5, 52 + _SPLIT + step)
            upper = values + extract
            upper -= extract
            values -= upper  # the lower half
            square = _steps_of(float(upper @ upper), 2 * step)
            square += 2 * _steps_of(float(upper @ values), 2 * step)
            square += _steps_of(float(values @ values), 2 * step)
            self._whole[1] += square << 2 * (step + _FINEST)

    def _add_binades(
        self, scores: NDArray[np.float32], group: NDArray[np.int64] | None = None
    ) -> None:
        bits = scores.view(np.uint32)
        place = (bits >> np.uint32(23)).astype(np.int64)
        if group is not None:
            place += group * BINADES
        self._put(0, place, scores.astype(np.float64))
        if len(self._sums) > 1:
            upper = (bits & _UPPER_HALF).view(np.float32).astype(np.float64)
            lower = scores - upper
            for slot, product in enumerate((upper * upper, upper * lower, lower * lower), 1):
                self._put(slot, place, product)

    def _put(self, slot: int, place: NDArray[np.int64], values: NDArray[np.float64]) -> None:
        found = np.bincount(place, values, self.groups * BINADES).reshape(self.groups, BINADES)
        self._sums[slot] += np.ldexp(found, -_steps(slot)).astype(np.int64)

    def _sum(self, group: int) -> Fraction:
        found = self._total(0, group)
        return found + Fraction(self._whole[0], 1 << _FINEST) if group == 0 else found

    def _total(self, slot: int, group: int) -> Fraction:
        sums, steps = self._sums[slot, group], _steps(slot)
        return sum(
            (int(sums[b]) * Fraction(2) ** int(steps[b]) for b in np.flatnonzero(sums)), Fraction(0)
        )


def _steps(slot: int) -> NDArray[np.int64]:
    """Per sign and exponent the binary exponent that all terms of a sum are multiples of."""
    float_step = np.maximum(np.arange(BINADES) % 256, 1) - 150
    upper_step = float_step + 12
    return (float_step, 2 * upper_step, upper_step + float_step, 2 * float_step)[slot]


def _steps_of(value: float, step: int) -> int:
    """How many 2^step a multiple of it is."""
    return int(ldexp(value, -step))


def _root(value: Fraction) -> float:
    """The square root of a fraction, correctly rounded."""
    shift = max(0, 128 - value.numerator.bit_length() + value.denominator.bit_length())
    shift += shift % 2
    scaled, rest = divmod(value.numerator << shift, value.denominator)
    root = isqrt(scaled)
    # a last bit says that something follows, or a root just above a tie would be rounded as one
    root = 2 * root + (rest > 0 or root * root < scaled)
    return float(Fraction(root, 1 << shift // 2 + 1))
