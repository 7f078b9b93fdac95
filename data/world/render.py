"""Drawing scenes: 64 x 64 RGB pictures with graded quality, a whole batch at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tgo.data.world.scene import BACKGROUNDS, COLOURS, PLACES, SHAPES, Scene

SIDE = 64
QUALITIES = ("contrast", "sharpness", "harmony", "composition")
SMALL = (7.5, 9.5)  # radius in pixels
LARGE = (12.0, 15.5)

PALETTE = {
    "red": (222, 42, 42),
    "yellow": (244, 214, 40),
    "green": (40, 168, 64),
    "cyan": (44, 204, 218),
    "blue": (44, 78, 222),
    "purple": (150, 48, 190),
    "white": (245, 245, 245),
    "black": (20, 20, 24),
    "grey": (128, 130, 134),
    "pink": (250, 184, 204),
}

Array = NDArray[np.float32]


@dataclass
class Layout:
    """Where and how scenes are drawn; every array has one row a scene.

    Attributes:
        shape, colour: int [B, 2] indices, -1 in the second column where there is one thing.
        centre: float32 [B, 2, 2] (x, y) in pixels; radius: float32 [B, 2] in pixels.
        background: int [B]; quality: float32 [B, 4] in [0, 1], 1 is flawless (see QUALITIES).
    """

    shape: NDArray[np.int64]
    colour: NDArray[np.int64]
    centre: Array
    radius: Array
    background: NDArray[np.int64]
    quality: Array

    def __len__(self) -> int:
        return len(self.background)


def _radius(rng: np.random.Generator, size: str | None, two: bool) -> float:
    if size is None:
        size = "small" if rng.random() < 0.5 else "large"
    low, high = SMALL if size == "small" else LARGE
    if two and size == "large":  # two large things must fit beside each other
        high = 13.5
    return float(rng.uniform(low, high))


def _spot(rng: np.random.Generator, place: str | None, radius: float) -> tuple[float, float]:
    place = place or PLACES[int(rng.integers(len(PLACES)))]
    if place == "centre":
        return float(32 + rng.uniform(-3, 3)), float(32 + rng.uniform(-3, 3))
    edge = radius + 2
    near, far = edge, max(edge + 0.5, 22.0)
    x, y = rng.uniform(near, far, size=2)
    vertical, horizontal = place.split()
    return (
        float(x if horizontal == "left" else SIDE - x),
        float(y if vertical == "top" else SIDE - y),
    )


def _pair(
    rng: np.random.Generator, relation: str, radii: tuple[float, float]
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Centres of two things that do not touch; the first lies `relation` the second."""
    first, second = radii
    gap = float(rng.uniform(2.5, max(3.0, 60 - 2 * (first + second) - 2)))
    length = 2 * (first + second) + gap
    start = float(rng.uniform(1.5, max(1.6, SIDE - 1.5 - length)))
    along = (start + first, start + 2 * first + gap + second)
    across = 32 + rng.uniform(-7, 7, size=2)
    if relation in ("right of", "below"):
        along = (SIDE - along[0], SIDE - along[1])
    if relation in ("left of", "right of"):
        return (along[0], float(across[0])), (along[1], float(across[1]))
    return (float(across[0]), along[0]), (float(across[1]), along[1])


def lay_out(rng: np.random.Generator, scenes: Sequence[Scene], quality: Array) -> Layout:
    """Positions and sizes that keep each scene's promises; `quality` is float32 [B, 4]."""
    count = len(scenes)
    shape = np.full((count, 2), -1, np.int64)
    colour = np.full((count, 2), -1, np.int64)
    centre = np.zeros((count, 2, 2), np.float32)
    radius = np.ones((count, 2), np.float32)
    for row, scene in enumerate(scenes):
        two = scene.relation is not None
        radii = [_radius(rng, thing.size, two) for thing in scene.things]
        if scene.relation is not None:
            spots = list(_pair(rng, scene.relation, (radii[0], radii[1])))
        else:
            spots = [_spot(rng, scene.things[0].place, radii[0])]
        for column, thing in enumerate(scene.things):
            shape[row, column] = SHAPES.index(thing.shape)
            colour[row, column] = COLOURS.index(thing.colour)
        centre[row, : len(spots)] = spots
        radius[row, : len(radii)] = radii
    background = np.array([BACKGROUNDS.index(scene.background) for scene in scenes])
    return Layout(shape, colour, centre, radius, background, quality.astype(np.float32))


def draw_quality(rng: np.random.Generator, count: int, flawless: float = 0.2) -> Array:
    """Quality of web pictures, float32 [count, 4], graded; a share `flawless` is nearly perfect."""
    quality = rng.beta(1.6, 1.0, size=(count, len(QUALITIES)))
    clean = rng.random(count) < flawless
    quality[clean] = rng.uniform(0.95, 1.0, size=(int(clean.sum()), len(QUALITIES)))
    return quality.astype(np.float32)


def inside(shape: NDArray[np.int64], x: Array, y: Array) -> Array:
    """Signed distance in radii, negative inside; `x`, `y` [B, H, W] in units of the radius."""
    ax, ay = np.abs(x), np.abs(y)
    arm = 0.4
    choices = [
        np.hypot(x, y) - 1.0,
        np.maximum(ax, ay) - 0.9,
        np.maximum(0.862 * ax - 0.507 * (y + 0.95), y - 0.75),
        (ax + ay - 1.1) * 0.7071,
        np.minimum(np.maximum(ax - arm, ay - 1.0), np.maximum(ay - arm, ax - 1.0)),
    ]
    return np.choose(shape[:, None, None], choices).astype(np.float32)


def backdrop(rng: np.random.Generator, layout: Layout) -> Array:
    """Backgrounds with stains and specks, float32 [B, 64, 64, 3] in grey levels."""
    backgrounds = np.array([PALETTE[name] for name in BACKGROUNDS], np.float32)
    picture = np.broadcast_to(
        backgrounds[layout.background][:, None, None, :], (len(layout), SIDE, SIDE, 3)
    ).copy()
    picture = _blotch(rng, picture, 1 - layout.quality[:, 2])
    return _clutter(rng, picture, 1 - layout.quality[:, 3])


def finish(rng: np.random.Generator, picture: Array, quality: Array) -> NDArray[np.uint8]:
    """The faults that lie over a whole picture: uint8 of float32 [B, 64, 64, 3]."""
    picture = _fade(picture, quality[:, 0])
    picture = _soften(rng, picture, quality[:, 1])
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def render(rng: np.random.Generator, layout: Layout) -> NDArray[np.uint8]:
    """uint8 [B, 64, 64, 3]: things with smooth edges, then the faults of their quality."""
    ys, xs = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) + 0.5
    colours = np.array([PALETTE[name] for name in COLOURS], np.float32)
    picture = backdrop(rng, layout)
    for column in range(2):
        radius = layout.radius[:, column, None, None]
        x = (xs - layout.centre[:, column, 0, None, None]) / radius
        y = (ys - layout.centre[:, column, 1, None, None]) / radius
        distance = inside(np.maximum(layout.shape[:, column], 0), x, y) * radius
        cover = np.clip(0.5 - distance, 0, 1) * (layout.shape[:, column] >= 0)[:, None, None]
        paint = colours[layout.colour[:, column]][:, None, None, :]
        picture += cover[..., None] * (paint - picture)
    return finish(rng, picture, layout.quality)


def _interpolation(points: int) -> Array:
    """Linear interpolation from `points` knots to SIDE pixels as a matrix [SIDE, points]."""
    at = np.linspace(0, points - 1, SIDE, dtype=np.float32)
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(points, dtype=np.float32)))


def _gaussian(sigma: float) -> Array:
    """Gaussian blur along one axis as a matrix [SIDE, SIDE], edges renormalised."""
    at = np.arange(SIDE, dtype=np.float32)
    kernel = np.exp(-0.5 * ((at[:, None] - at) / sigma) ** 2)
    return np.divide(kernel, kernel.sum(axis=1, keepdims=True), dtype=np.float32)


def _along_both(picture: Array, matrix: Array) -> Array:
    """Apply one matrix to rows and columns of [B, H, W, 3]."""
    columns = np.tensordot(matrix, picture, axes=(1, 2))  # [W', B, H, 3]
    both = np.tensordot(matrix, columns, axes=(1, 2))  # [H', W', B, 3]
    return both.transpose(2, 0, 1, 3)


def smooth_field(rng: np.random.Generator, count: int, knots: int, channels: int) -> Array:
    """Random fields that vary slowly: float32 [count, 64, 64, channels], unit normal at knots."""
    coarse = rng.standard_normal((count, knots, knots, channels), dtype=np.float32)
    return _along_both(coarse, _interpolation(knots))


def _blotch(rng: np.random.Generator, picture: Array, amount: Array) -> Array:
    """Uneven colour casts: low-frequency stains with a spread of up to 30 grey levels."""
    stain = smooth_field(rng, len(picture), knots=5, channels=3)
    return picture + 30.0 * amount[:, None, None, None] * stain


def _clutter(rng: np.random.Generator, picture: Array, amount: Array, most: int = 14) -> Array:
    """Specks of 2 x 2 pixels in random colours, up to `most` a picture."""
    count = len(picture)
    shown = rng.random((count, most)) < amount[:, None] * (amount > 0.08)[:, None]
    row, _ = np.nonzero(shown)
    top, left = rng.integers(0, SIDE - 2, size=(2, len(row)))
    paint = rng.uniform(0, 255, size=(len(row), 3)).astype(np.float32)
    for down in range(2):
        for right in range(2):
            picture[row, top + down, left + right] = paint
    return picture


def _fade(picture: Array, contrast: Array) -> Array:
    """Contrast: colours drawn towards the picture's mean, to 45 % of their distance at worst."""
    mean = picture.mean(axis=(1, 2), keepdims=True)
    return mean + (0.45 + 0.55 * contrast)[:, None, None, None] * (picture - mean)


def _soften(rng: np.random.Generator, picture: Array, sharpness: Array) -> Array:
    """Edges: a Gaussian blur of up to 1.6 pixels and grain of up to 10 grey levels."""
    blurred = _along_both(picture, _gaussian(1.6))
    share = (1 - sharpness)[:, None, None, None]
    grain = rng.standard_normal(picture.shape, dtype=np.float32)
    return picture + share * (blurred - picture) + 10.0 * share * grain


def draw(
    rng: np.random.Generator, scenes: Sequence[Scene], quality: Array | None = None
) -> NDArray[np.uint8]:
    """Pictures of scenes, uint8 [B, 64, 64, 3]; flawless unless `quality` [B, 4] says otherwise."""
    if quality is None:
        quality = np.ones((len(scenes), len(QUALITIES)), np.float32)
    return render(rng, lay_out(rng, scenes, quality))
