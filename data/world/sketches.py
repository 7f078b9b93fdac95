"""Pictures with the faults of a generator rather than of a renderer.

Outlines that are warped or half another shape, colours that leak, things that fade, lack a piece
or were never asked for. What was drawn stays known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tgo.data.world.raters import Wear
from tgo.data.world.render import (
    LARGE,
    PALETTE,
    SIDE,
    SMALL,
    Layout,
    backdrop,
    finish,
    inside,
    lay_out,
    smooth_field,
)
from tgo.data.world.scene import (
    BACKGROUNDS,
    COLOURS,
    SHAPES,
    SIZES,
    Scene,
    Thing,
)

THINGS = 3  # columns of a sketch: two promised things and one that nobody asked for
MIDDLE_RADIUS = (SMALL[1] + LARGE[0]) / 2

Array = NDArray[np.float32]


@dataclass
class Sketch:
    """A layout with faults on its things; arrays have a row a picture and THINGS columns.

    Attributes:
        layout: shape, colour (-1: no thing), centre and radius with THINGS columns.
        morph: share of `other_shape` in the outline, in [0, 0.5).
        leak: share of the thing's area in `other_colour`, in [0, 0.5).
        bite: share of the thing's area that is missing, in [0, 0.5).
        presence: opacity in (0, 1].
        warp: root mean square displacement of the outlines in pixels, [B].
        angle: direction of leak (first) and bite (second), [B, THINGS, 2]; blur of the leak's edge.
    """

    layout: Layout
    other_shape: NDArray[np.int64]
    other_colour: NDArray[np.int64]
    morph: Array
    leak: Array
    bite: Array
    presence: Array
    warp: Array
    angle: Array
    soft: Array

    def __len__(self) -> int:
        return len(self.layout)


def sketch(rng: np.random.Generator, scenes: Sequence[Scene], quality: Array) -> Sketch:
    """Positions, sizes and generator-like faults; `quality` float32 [B, 4]."""
    count = len(scenes)
    two = lay_out(rng, scenes, quality)
    wide = ((0, 0), (0, THINGS - 2))
    layout = Layout(
        np.pad(two.shape, wide, constant_values=-1),
        np.pad(two.colour, wide, constant_values=-1),
        np.pad(two.centre, (*wide, (0, 0))),
        np.pad(two.radius, wide, constant_values=1),
        two.background,
        two.quality,
    )
    for row in np.flatnonzero(rng.random(count) < 0.1):
        _add_thing(rng, layout, int(row))
    deformed = rng.random(count) < 0.5

    def some(share: float, most: float) -> Array:
        """Strengths up to `most` on a `share` of the things of deformed pictures."""
        hit = (rng.random((count, THINGS)) < share) & deformed[:, None]
        return (hit * rng.uniform(0, most, size=(count, THINGS))).astype(np.float32)

    extra = np.arange(THINGS) >= np.array([len(scene.things) for scene in scenes])[:, None]
    fade = np.where(extra & (rng.random((count, THINGS)) < 0.5), rng.random((count, THINGS)), 0)
    warped = deformed & (rng.random(count) < 0.5)
    return Sketch(
        layout=layout,
        other_shape=rng.integers(len(SHAPES), size=(count, THINGS)),
        other_colour=rng.integers(len(COLOURS), size=(count, THINGS)),
        morph=some(0.35, 0.5),
        leak=some(0.2, 0.5),
        bite=some(0.15, 0.5),
        presence=(1 - np.maximum(fade, some(0.15, 0.95))).astype(np.float32),
        warp=(warped * rng.uniform(0.3, 3.0, size=count)).astype(np.float32),
        angle=rng.uniform(0, 2 * np.pi, size=(count, THINGS, 2)).astype(np.float32),
        soft=rng.uniform(0.03, 0.6, size=(count, THINGS)).astype(np.float32),
    )


def _add_thing(rng: np.random.Generator, layout: Layout, row: int) -> None:
    """One thing more where it finds room; none where it does not."""
    column = int((layout.shape[row] >= 0).sum())
    for _ in range(8):
        radius = float(rng.uniform(*SMALL) if rng.random() < 0.7 else rng.uniform(*LARGE))
        spot = rng.uniform(radius + 2, SIDE - radius - 2, size=2)
        apart = np.linalg.norm(layout.centre[row, :column] - spot, axis=1)
        if (apart > 1.2 * (layout.radius[row, :column] + radius)).all():
            layout.shape[row, column] = rng.integers(len(SHAPES))
            layout.colour[row, column] = rng.integers(len(COLOURS))
            layout.centre[row, column] = spot
            layout.radius[row, column] = radius
            return


def paint(rng: np.random.Generator, drawn: Sketch) -> NDArray[np.uint8]:
    """Pictures of sketches, uint8 [B, 64, 64, 3]."""
    colours = np.array([PALETTE[name] for name in COLOURS], np.float32)
    layout = drawn.layout
    picture = backdrop(rng, layout)
    # two channels have an rms of 1 together after the scaling, knots 9 pixels apart
    field = smooth_field(rng, len(drawn), knots=8, channels=2)
    field /= np.sqrt((field**2).sum(axis=3).mean(axis=(1, 2)))[:, None, None, None]
    moved = field * drawn.warp[:, None, None, None]
    ys, xs = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) + 0.5
    for column in range(THINGS):
        radius = layout.radius[:, column, None, None]
        x = (xs + moved[..., 0] - layout.centre[:, column, 0, None, None]) / radius
        y = (ys + moved[..., 1] - layout.centre[:, column, 1, None, None]) / radius
        share = drawn.morph[:, column, None, None]
        distance = (1 - share) * inside(np.maximum(layout.shape[:, column], 0), x, y)
        distance += share * inside(drawn.other_shape[:, column], x, y)
        cover = np.clip(0.5 - distance * radius, 0, 1)
        cover *= (layout.shape[:, column] >= 0)[:, None, None]
        sides = drawn.angle[:, column, :, None, None]
        crisp = np.full(len(drawn), 0.05, np.float32)
        bitten = _half(cover, x, y, sides[:, 1], drawn.bite[:, column], crisp)
        leaked = _half(cover, x, y, sides[:, 0], drawn.leak[:, column], drawn.soft[:, column])
        mine = colours[layout.colour[:, column]][:, None, None, :]
        other = colours[drawn.other_colour[:, column]][:, None, None, :]
        fill = mine + leaked[..., None] * (other - mine)
        cover = cover * (1 - bitten) * drawn.presence[:, column, None, None]
        picture += cover[..., None] * (fill - picture)
    return finish(rng, picture, layout.quality)


def _half(cover: Array, x: Array, y: Array, angle: Array, share: Array, soft: Array) -> Array:
    """Half-planes, [B, 64, 64] in [0, 1], that hold `share` [B] of each cover.

    `soft` [B] is the width of their edge in radii.
    """
    whole = np.zeros_like(cover)
    some = np.flatnonzero(share)
    along = x[some] * np.cos(angle[some]) + y[some] * np.sin(angle[some])
    cover, share, width = cover[some], share[some], soft[some, None, None]
    low, high = np.full(len(some), -2.0, np.float32), np.full(len(some), 2.0, np.float32)
    for _ in range(7):  # bisection for the edge's place: 4 / 2^7 radii is below half a pixel
        middle = (low + high) / 2
        side = 1 / (1 + np.exp(np.clip((middle[:, None, None] - along) / width, -30, 30)))
        too_much = (side * cover).sum(axis=(1, 2)) > share * cover.sum(axis=(1, 2))
        low, high = np.where(too_much, middle, low), np.where(too_much, high, middle)
        whole[some] = side
    return whole


def drawn_scene(layout: Layout, row: int) -> Scene:
    """What one row of a layout shows, said in full."""
    things = []
    for column in np.flatnonzero(layout.shape[row] >= 0):
        size = SIZES[int(layout.radius[row, column] > MIDDLE_RADIUS)]
        shape, colour = SHAPES[layout.shape[row, column]], COLOURS[layout.colour[row, column]]
        things.append(Thing(shape, colour, size, _place(layout.centre[row, column])))
    relation = _relation(layout.centre[row]) if len(things) > 1 else None
    return Scene(tuple(things), BACKGROUNDS[layout.background[row]], relation)


def _place(centre: Array) -> str:
    x, y = centre - SIDE / 2
    if np.hypot(x, y) < 8:
        return "centre"
    return f"{'top' if y < 0 else 'bottom'} {'left' if x < 0 else 'right'}"


def _relation(centre: Array) -> str:
    across, down = centre[0] - centre[1]
    if abs(across) > abs(down):
        return "left of" if across < 0 else "right of"
    return "above" if down < 0 else "below"


def wear(drawn: Sketch, smear: Array) -> list[list[Wear]]:
    """What the faults leave of each thing, row by row.

    `smear` [B] is what latent noise does to the outline of a thing of 10 pixels' radius: at 1 it
    leaves 1 / e of it, and less of smaller things.
    """
    layout = drawn.layout
    morph = drawn.morph * (drawn.other_shape != layout.shape)
    leak = drawn.leak * (drawn.other_colour != layout.colour)
    bent = np.clip(1 - drawn.warp[:, None] / (0.4 * layout.radius), 0, 1)
    smeared = np.exp(-((10 * smear[:, None] / layout.radius) ** 2))
    shape = (1 - (2 * morph) ** 1.5) * np.clip(1 - 1.6 * drawn.bite, 0, 1) * bent * smeared
    colour = 1 - 2 * leak
    presence = np.clip((drawn.presence - 0.1) / 0.7, 0, 1)
    there = layout.shape >= 0
    return [
        [
            Wear(float(shape[row, c]), float(colour[row, c]), float(presence[row, c]))
            for c in np.flatnonzero(there[row])
        ]
        for row in range(len(drawn))
    ]
