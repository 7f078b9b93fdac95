"""The gold judge: reads a picture back into things, without any learned part.

It is the embedded world's truth. No stage trains on it or chooses a setting by it; evaluation
reads it once, from a dotted path in params.yaml.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tgo.data.world.render import LARGE, PALETTE, SIDE, SMALL, inside
from tgo.data.world.scene import BACKGROUNDS, COLOURS, SHAPES, Scene, Thing, parse

TEMPLATE = 24  # pixels a side of the normalised outline that shapes are compared in
SMALLEST = 36  # pixels; the smallest thing of the world covers about 60
MIDDLE_RADIUS = (SMALL[1] + LARGE[0]) / 2


@dataclass(frozen=True)
class Seen:
    """One thing found: `centre` and `radius` in pixels, `fit` the overlap with its outline."""

    shape: str
    colour: str
    centre: tuple[float, float]
    radius: float
    fit: float


@dataclass(frozen=True)
class Verdict:
    """How a picture keeps its prompt's promises.

    Attributes:
        all_right: every promise is kept and nothing else is there.
        share: kept promises over all promises, in [0, 1].
    """

    all_right: bool
    share: float


@cache
def _outlines() -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.float64]]:
    """Outlines to compare with: masks [K, TEMPLATE, TEMPLATE], their shapes [K], areas in radii.

    Every shape is drawn at several radii and blurs, because rounding a small diamond's corners
    makes it much like a circle in its own bounding box.
    """
    ys, xs = np.mgrid[-20:21, -20:21].astype(np.float32)
    masks, shapes, areas = [], [], []
    for index in range(len(SHAPES)):
        for radius in (7.5, 9.5, 12.0, 15.0):
            distance = inside(np.array([index]), xs[None] / radius, ys[None] / radius)[0] * radius
            cover = np.clip(0.5 - distance, 0, 1)
            for blur in (0.7, 1.3):
                mask = ndimage.gaussian_filter(cover, blur) > 0.5
                masks.append(_to_template(mask))
                shapes.append(index)
                areas.append(mask.sum() / radius**2)
    return np.stack(masks), np.array(shapes), np.array(areas)


def _to_template(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    cut = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    down = (np.arange(TEMPLATE) + 0.5) * cut.shape[0] / TEMPLATE
    across = (np.arange(TEMPLATE) + 0.5) * cut.shape[1] / TEMPLATE
    return cut[down.astype(int)][:, across.astype(int)]


def _palette(names: Sequence[str]) -> NDArray[np.float32]:
    return np.array([PALETTE[name] for name in names], np.float32)


def _background(picture: NDArray[np.float32]) -> tuple[str, NDArray[np.float32]]:
    """The background's name and its colour in this picture: the median of a 3-pixel frame."""
    frame = np.ones((SIDE, SIDE), bool)
    frame[3:-3, 3:-3] = False
    colour = np.median(picture[frame], axis=0)
    distance = np.linalg.norm(_palette(BACKGROUNDS) - colour, axis=1)
    return BACKGROUNDS[int(distance.argmin())], colour


def _name_colour(paint: NDArray[np.float32], ground: NDArray[np.float32], name: str) -> str:
    """The object colour nearest to `paint`, also if the picture is faded towards its background."""
    true_ground = _palette([name])[0]
    fades = np.linspace(0.45, 1.0, 8, dtype=np.float32)[:, None, None]
    faded = ground + fades * (_palette(COLOURS) - true_ground)
    distance = np.linalg.norm(faded - paint, axis=2) / (0.4 + 0.6 * fades[:, :, 0])
    return COLOURS[int(distance.min(axis=0).argmin())]


def see(picture: NDArray[np.uint8]) -> tuple[str, list[Seen]]:
    """The background of one picture, uint8 [64, 64, 3], and the things on it, largest first."""
    smooth = ndimage.median_filter(picture.astype(np.float32), size=(3, 3, 1))
    soft = ndimage.gaussian_filter(picture.astype(np.float32), (0.7, 0.7, 0))  # keeps corners
    name, ground = _background(smooth)
    away = np.linalg.norm(smooth - ground, axis=2)
    level = max(38.0, 0.45 * float(np.quantile(away, 0.985)))
    things: list[Seen] = []
    for part in _parts(smooth, away > level):
        things.extend(_recognise(part, smooth, soft, ground, name))
    return name, sorted(things, key=lambda thing: -thing.radius)


def _parts(smooth: NDArray[np.float32], mask: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    labels, count = ndimage.label(mask)
    sizes = ndimage.sum_labels(mask, labels, index=np.arange(1, count + 1))
    return [labels == index + 1 for index in np.flatnonzero(sizes >= SMALLEST)]


def _recognise(
    part: NDArray[np.bool_],
    smooth: NDArray[np.float32],
    soft: NDArray[np.float32],
    ground: NDArray[np.float32],
    background: str,
) -> list[Seen]:
    """One connected part as one thing; two things that touch are told apart by colour."""
    core = ndimage.binary_erosion(part)
    core = core if core.sum() >= 12 else part
    paint = np.median(smooth[core], axis=0)
    strange = core & (np.linalg.norm(smooth - paint, axis=2) > 90)
    if strange.sum() >= SMALLEST and (core & ~strange).sum() >= SMALLEST:
        halves = [ndimage.binary_dilation(strange) & part, part & ~strange]
        return [_fit(half, smooth, soft, ground, background) for half in halves]
    return [_fit(part, smooth, soft, ground, background)]


def _fit(
    part: NDArray[np.bool_],
    smooth: NDArray[np.float32],
    soft: NDArray[np.float32],
    ground: NDArray[np.float32],
    background: str,
) -> Seen:
    core = ndimage.binary_erosion(part)
    paint = np.median(smooth[core if core.sum() >= 12 else part], axis=0)
    # half of the way from background to paint is where an antialiased edge runs
    line = paint - ground
    near = ndimage.binary_dilation(part, iterations=2)
    mask = near & (((soft - ground) @ line) > 0.5 * float(line @ line))
    mask = mask if mask.sum() >= SMALLEST else part
    outlines, shapes, areas = _outlines()
    cut = _to_template(mask)
    overlap = (cut & outlines).sum((1, 2)) / (cut | outlines).sum((1, 2))
    best = int(overlap.argmax())
    rows, columns = np.nonzero(mask)
    high, wide = np.ptp(rows) + 1, np.ptp(columns) + 1
    fit = float(overlap[best]) * min(1.0, 1.35 * min(high, wide) / max(high, wide))
    return Seen(
        shape=SHAPES[shapes[best]],
        colour=_name_colour(paint, ground, background),
        centre=((columns.min() + columns.max() + 1) / 2, (rows.min() + rows.max() + 1) / 2),
        radius=float(np.sqrt(mask.sum() / areas[best])),
        fit=fit,
    )


LEAST_FIT = 0.72  # below this overlap a part is no shape of the world


def _keeps_size(thing: Thing, seen: Seen) -> bool:
    return (seen.radius < MIDDLE_RADIUS) == (thing.size == "small")


def _keeps_place(thing: Thing, seen: Seen) -> bool:
    x, y = seen.centre[0] - SIDE / 2, seen.centre[1] - SIDE / 2
    if thing.place == "centre":
        return bool(np.hypot(x, y) < 9)
    vertical, horizontal = str(thing.place).split()
    return (y < -2 if vertical == "top" else y > 2) and (x < -2 if horizontal == "left" else x > 2)


def _keeps_relation(relation: str, first: Seen, second: Seen) -> bool:
    across, down = first.centre[0] - second.centre[0], first.centre[1] - second.centre[1]
    if relation in ("left of", "right of"):
        return abs(across) > abs(down) and (across < 0) == (relation == "left of")
    return abs(down) > abs(across) and (down < 0) == (relation == "above")


def _match(scene: Scene, things: list[Seen]) -> list[Seen | None]:
    """The seen thing for each promised one: by colour and shape, each seen thing used once."""
    left = list(things)
    matched: list[Seen | None] = []
    for thing in scene.things:
        score = [2 * (s.colour == thing.colour) + (s.shape == thing.shape) for s in left]
        best = int(np.argmax(score)) if score else -1
        matched.append(left.pop(best) if best >= 0 and score[best] > 0 else None)
    return matched


def judge_scene(scene: Scene, background: str, things: list[Seen]) -> Verdict:
    """Which promises of `scene` are kept by what was seen."""
    kept = [background == scene.background, len(things) == len(scene.things)]
    matched = _match(scene, things)
    for thing, seen in zip(scene.things, matched, strict=True):
        kept.append(seen is not None and seen.colour == thing.colour)
        kept.append(seen is not None and seen.shape == thing.shape and seen.fit >= LEAST_FIT)
        if thing.size:
            kept.append(seen is not None and _keeps_size(thing, seen))
        if thing.place:
            kept.append(seen is not None and _keeps_place(thing, seen))
    if scene.relation:
        first, second = matched
        both = first is not None and second is not None
        kept.append(both and _keeps_relation(scene.relation, first, second))  # type: ignore[arg-type]
    return Verdict(all_right=all(kept), share=sum(kept) / len(kept))


def judge(images: NDArray[np.uint8], prompts: Sequence[str]) -> list[Verdict]:
    """Judge how images keep what their prompts promise.

    Args:
        images: uint8 [B, 64, 64, 3].
        prompts: B captions of the world.

    Returns:
        B verdicts.

    Raises:
        ValueError: a picture of another size, or a prompt outside the world.
    """
    if images.shape[1:] != (SIDE, SIDE, 3):
        raise ValueError(f"the gold judge reads {SIDE} x {SIDE} RGB pictures, not {images.shape}")
    return [
        judge_scene(parse(text), *see(image)) for image, text in zip(images, prompts, strict=True)
    ]
