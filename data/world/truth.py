"""The truth with grades: what simulated raters would think of a picture, read from its pixels.

The judge reads which things are there; this module reads how well they are made: how much is left
of each thing, and the four qualities that a renderer knows and a generator does not tell. From
these follow the raters' merits and the noiseless utility of each population (`raters.py`). No
part is learnt. No stage trains on it or chooses a setting by it; evaluation reads it once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tgo.data.world.judge import Seen, Verdict, judge_scene, see
from tgo.data.world.raters import MERITS, POPULATIONS, Wear, kept
from tgo.data.world.render import LARGE, PALETTE, SIDE, SMALL
from tgo.data.world.scene import SIZES, Scene, Thing, parse

MIDDLE_RADIUS = (SMALL[1] + LARGE[0]) / 2

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Graded(Verdict):
    """A verdict with `utility`: each population's noiseless liking, in the noise of one judgement.

    `merits` are what it is made of, float32 [7], see `raters.MERITS`.
    """

    utility: Mapping[str, float]
    merits: Array

    @property
    def grades(self) -> dict[str, float]:
        """Every number by name: all_right, share, and the utilities."""
        found = {"all_right": float(self.all_right), "share": self.share}
        return found | {f"utility {name}": value for name, value in self.utility.items()}


def judge(images: NDArray[np.uint8], prompts: Sequence[str]) -> list[Graded]:
    """Judge images on their prompts, with what the raters would think of them.

    Args:
        images: uint8 [B, 64, 64, 3].
        prompts: B captions of the world.

    Returns:
        B verdicts with merits and utilities.

    Raises:
        ValueError: a picture of another size, or a prompt outside the world.
    """
    if images.shape[1:] != (SIDE, SIDE, 3):
        raise ValueError(f"the gold judge reads {SIDE} x {SIDE} RGB pictures, not {images.shape}")
    return [grade(image, parse(text)) for image, text in zip(images, prompts, strict=True)]


def grade(picture: NDArray[np.uint8], promised: Scene) -> Graded:
    """The verdict on one picture, uint8 [64, 64, 3], with its merits and utilities."""
    background, things = see(picture)
    verdict = judge_scene(promised, background, things)
    merits = read_merits(picture, promised, background, things)
    utility = {name: float(people.utility(merits)) for name, people in POPULATIONS.items()}
    return Graded(verdict.all_right, verdict.share, utility, merits)


def read_merits(
    picture: NDArray[np.uint8], promised: Scene, background: str, things: Sequence[Seen]
) -> Array:
    """`raters.MERITS` of a picture in which the judge saw `things`, float32 [7]."""
    worn = [Wear(shape=_outline_left(thing)) for thing in things]
    drawn = Scene(tuple(map(_told, things)), background, _relation(things))
    found = kept(promised, drawn, worn)
    clean = min((wear.shape for wear in worn), default=0.0)
    merits = (*found, *read_qualities(picture, background, things), clean)
    assert len(merits) == len(MERITS)
    return np.array(merits, np.float32)


def _outline_left(seen: Seen) -> float:
    """How much of its shape's outline a thing has, from its overlap with the best one."""
    return float(np.clip((seen.fit - FIT_NONE) / (FIT_WHOLE - FIT_NONE), 0, 1))


FIT_NONE, FIT_WHOLE = 0.6, 0.9  # overlaps at which nothing, and everything, is left of a shape


def _told(seen: Seen) -> Thing:
    x, y = seen.centre[0] - SIDE / 2, seen.centre[1] - SIDE / 2
    place = f"{'top' if y < 0 else 'bottom'} {'left' if x < 0 else 'right'}"
    size = SIZES[int(seen.radius > MIDDLE_RADIUS)]
    return Thing(seen.shape, seen.colour, size, "centre" if np.hypot(x, y) < 8 else place)


def _relation(things: Sequence[Seen]) -> str | None:
    if len(things) < 2:
        return None
    across, down = np.subtract(things[0].centre, things[1].centre)
    if abs(across) > abs(down):
        return "left of" if across < 0 else "right of"
    return "above" if down < 0 else "below"


def read_qualities(
    picture: NDArray[np.uint8], background: str, things: Sequence[Seen]
) -> tuple[float, float, float, float]:
    """Contrast, sharpness, harmony and composition of a picture, each in [0, 1].

    Each undoes what `render` does to a picture of that quality: colours drawn together, blur and
    grain, stains of the background, specks on it.
    """
    surface = _take_apart(picture, things)
    fade = _fade_left(surface, background, things)
    stains = _stains(surface)
    qualities = (
        (fade - MOST_FADED) / (1 - MOST_FADED),
        _sharpness(surface, things),
        1 - float(np.sqrt(stains.blocks.var(axis=0).mean())) / fade / STAIN,
        1 - _specks(surface, stains, fade) / MOST_SPECKS,
    )
    return tuple(float(np.clip(quality, 0, 1)) for quality in qualities)  # type: ignore[return-value]


MOST_FADED = 0.45  # share of colour differences that `render` leaves at contrast 0
GRAIN = 10.0  # grey levels of its grain at sharpness 0
SOFTEST, CRISPEST = 0.92, 0.18  # width of edges in pixels at sharpness 0 and 1, see `_steepness`
STAIN = 18.0  # deviation of background blocks in grey levels at harmony 0
MOST_SPECKS = 14  # of 2 x 2 pixels
SPECK = 45.0  # grey levels from its surroundings, before fading


class _Surface(NamedTuple):
    """A picture taken apart.

    Attributes:
        picture: float32 [64, 64, 3]; free: bool [64, 64], the background away from things;
        ground: the background's colour in this picture, [3].
    """

    picture: Array
    free: NDArray[np.bool_]
    ground: Array


def _take_apart(picture: NDArray[np.uint8], things: Sequence[Seen]) -> _Surface:
    pixels = picture.astype(np.float32)
    frame = np.ones((SIDE, SIDE), bool)
    frame[3:-3, 3:-3] = False
    free = np.ones((SIDE, SIDE), bool)
    for thing in things:
        free &= _away(thing) > 1.45 * thing.radius + 4
    return _Surface(pixels, free, np.median(pixels[frame], axis=0))


def _away(thing: Seen) -> Array:
    """Distance of every pixel from the middle of a thing, [64, 64]."""
    rows, columns = np.ogrid[0.5:SIDE, 0.5:SIDE]
    return np.hypot(columns - thing.centre[0], rows - thing.centre[1])


def _paint(surface: _Surface, thing: Seen) -> Array:
    """The colour in the middle of a thing, [3]."""
    return np.median(surface.picture[_away(thing) < max(0.4 * thing.radius, 1.5)], axis=0)


def _fade_left(surface: _Surface, background: str, things: Sequence[Seen]) -> float:
    """The share of colour differences that is left, at the thing that keeps most."""
    ground = np.array(PALETTE[background], np.float32)
    left = [MOST_FADED]
    for thing in things:
        full = np.linalg.norm(np.array(PALETTE[thing.colour], np.float32) - ground)
        left.append(float(np.linalg.norm(_paint(surface, thing) - surface.ground) / full))
    return min(max(left), 1.0)


def _sharpness(surface: _Surface, things: Sequence[Seen]) -> float:
    """By grain where there is any; an autoencoder swallows it, and then the edges tell."""
    by_grain = _smoothness(surface)
    if by_grain < GRAINY:
        return by_grain
    return min([by_grain, *(_steepness(surface, thing) for thing in things)])


GRAINY = 0.9
_LAPLACE = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32) / 6


def _smoothness(surface: _Surface) -> float:
    """Sharpness by the grain of the background (Immerkaer 1996, robust by the median)."""
    if not surface.free.any():
        return 1.0
    grey = surface.picture.transpose(2, 0, 1).reshape(-1, SIDE)  # the channels below each other
    response = np.abs(ndimage.convolve(grey, _LAPLACE)).reshape(3, SIDE, SIDE)
    return 1 - float(np.median(response[:, surface.free])) / 0.6745 / GRAIN


def _steepness(surface: _Surface, thing: Seen) -> float:
    """Sharpness by the width of a thing's edge.

    With p the share of paint in a pixel, the sum of p (1 - p) along an edge is its width times its
    length: a sixth of a pixel for a step, 0.9 for a Gaussian blur of 1.6 pixels.
    """
    line = _paint(surface, thing) - surface.ground
    share = np.clip(
        ((surface.picture - surface.ground) @ line) / max(float(line @ line), 1.0), 0, 1
    )
    near = _away(thing) < 1.45 * thing.radius + 4
    inside = (share > 0.5) & near
    edge = inside & ~ndimage.binary_erosion(inside)
    band = ndimage.binary_dilation(edge, iterations=3) & near
    width = float((share * (1 - share))[band].sum()) / max(int(edge.sum()), 1)
    return (SOFTEST - width) / (SOFTEST - CRISPEST)


class _Stains(NamedTuple):
    """The slow part of a background.

    Attributes:
        blocks: medians of the free blocks of 8 x 8 pixels, [n, 3].
        local: what the background would be at every pixel, [64, 64, 3].
    """

    blocks: Array
    local: Array


BLOCK = 8
_KNOTS = np.maximum(
    0, 1 - np.abs((np.arange(SIDE)[:, None] - (BLOCK - 1) / 2) / BLOCK - np.arange(SIDE // BLOCK))
)  # linear interpolation from the middles of blocks to pixels


def _stains(surface: _Surface) -> _Stains:
    medians = np.median(_blocks(surface.picture), axis=2)
    free = _blocks(surface.free).mean(axis=2) > 0.7
    if not free.any():
        return _Stains(
            np.zeros((1, 3), np.float32), np.broadcast_to(surface.ground, surface.picture.shape)
        )
    weight = np.einsum("ik,kl,jl->ij", _KNOTS, free, _KNOTS)[..., None]
    local = np.einsum("ik,klc,jl->ijc", _KNOTS, medians * free[..., None], _KNOTS)
    known = weight > 0.05
    local = np.where(known, local / np.where(known, weight, 1), surface.ground)
    return _Stains(medians[free], local)


def _blocks(pixels: NDArray) -> NDArray:
    """[64, 64, ...] as [8, 8, 64, ...]: blocks, and the pixels of each."""
    count = SIDE // BLOCK
    parts = pixels.reshape(count, BLOCK, count, BLOCK, *pixels.shape[2:]).swapaxes(1, 2)
    return parts.reshape(count, count, BLOCK * BLOCK, *pixels.shape[2:])


def _specks(surface: _Surface, stains: _Stains, fade: float) -> float:
    """How many specks the whole background has, from those on its free part."""
    strange = np.linalg.norm(surface.picture - stains.local, axis=2) > SPECK * fade
    parts, _ = ndimage.label(strange & surface.free, structure=np.ones((3, 3)))
    found = int((np.bincount(parts.ravel())[1:] >= 2).sum())
    return found / max(float(surface.free.mean()), 0.2)
