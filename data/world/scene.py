"""Scenes of the embedded world: what can be in a picture, and how it is said in words.

A `Scene` is what a caption promises. `caption` and `parse` are inverse to each other, so a prompt
alone is enough for the gold judge. Nothing here knows pixels; see `render` and `judge`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

SHAPES = ("circle", "square", "triangle", "diamond", "cross")
COLOURS = ("red", "yellow", "green", "cyan", "blue", "purple")
BACKGROUNDS = ("white", "black", "grey", "pink")
SIZES = ("small", "large")
PLACES = ("top left", "top right", "bottom left", "bottom right", "centre")
RELATIONS = ("left of", "right of", "above", "below")

# Never drawn together in any training or validation scene; the `unseen` test set is made of them.
UNSEEN = frozenset(
    {
        ("circle", "purple"),
        ("square", "cyan"),
        ("triangle", "yellow"),
        ("diamond", "red"),
        ("cross", "green"),
    }
)


@dataclass(frozen=True)
class Thing:
    """One object; `size` and `place` are None where the caption leaves them open."""

    shape: str
    colour: str
    size: str | None = None
    place: str | None = None


@dataclass(frozen=True)
class Scene:
    """One or two things on a background; `relation` says where the first lies to the second."""

    things: tuple[Thing, ...]
    background: str
    relation: str | None = None

    @property
    def domain(self) -> str:
        """The prompt column `domain`: how hard the composition is."""
        if self.relation is None:
            return "one object"
        sized = any(thing.size for thing in self.things)
        return "sized relation" if sized else "relation"


_LINKS = {
    "left of": "to the left of",
    "right of": "to the right of",
    "above": "above",
    "below": "below",
}


def _say(thing: Thing) -> str:
    words = ["a", thing.size, thing.colour, thing.shape]
    if thing.place == "centre":
        words.append("in the centre")
    elif thing.place:
        words.append(f"in the {thing.place}")
    return " ".join(word for word in words if word)


def caption(scene: Scene) -> str:
    """The one caption of a scene: "a red circle above a blue square on a white background"."""
    said = _say(scene.things[0])
    if scene.relation:
        said += f" {_LINKS[scene.relation]} {_say(scene.things[1])}"
    return f"{said} on a {scene.background} background"


def _either(words: Sequence[str]) -> str:
    return "(" + "|".join(words) + ")"


_THING = (
    rf"a (?:{_either(SIZES)} )?{_either(COLOURS)} {_either(SHAPES)}(?: in the {_either(PLACES)})?"
)
_CAPTION = re.compile(
    rf"^{_THING}(?: {_either(tuple(_LINKS.values()))} {_THING})?"
    rf" on a {_either(BACKGROUNDS)} background$"
)


def parse(text: str) -> Scene:
    """The scene that a caption promises; raises ValueError for a sentence outside the world."""
    found = _CAPTION.match(text)
    if found is None:
        raise ValueError(f"not a caption of the embedded world: {text!r}")
    part = found.groups()
    things = [Thing(shape=part[2], colour=part[1], size=part[0], place=part[3])]
    relation = None
    if part[4]:
        relation = next(name for name, words in _LINKS.items() if words == part[4])
        things.append(Thing(shape=part[7], colour=part[6], size=part[5], place=part[8]))
    return Scene(tuple(things), background=part[9], relation=relation)


def _pick(rng: np.random.Generator, words: Sequence[str]) -> str:
    return words[int(rng.integers(len(words)))]


def _draw_thing(rng: np.random.Generator, unseen: bool) -> Thing:
    while True:
        thing = Thing(shape=_pick(rng, SHAPES), colour=_pick(rng, COLOURS))
        if ((thing.shape, thing.colour) in UNSEEN) == unseen:
            return thing


def draw_scene(
    rng: np.random.Generator,
    *,
    unseen: bool = False,
    relation: bool | None = None,
    sized: bool | None = None,
) -> Scene:
    """A random scene.

    Args:
        rng: what is drawn with.
        unseen: the first thing is one of the held-out colour-shape pairs.
        relation: True for two things, False for one, None for either (40 % two things).
        sized: whether sizes are said; None for either.

    Returns:
        One or two things on a background.
    """
    first = _draw_thing(rng, unseen)
    background = _pick(rng, BACKGROUNDS)
    two = bool(rng.random() < 0.4) if relation is None else relation
    says_size = bool(rng.random() < (0.25 if two else 0.5)) if sized is None else sized
    if says_size:
        first = replace(first, size=_pick(rng, SIZES))
    if not two:
        if rng.random() < 0.5:
            first = replace(first, place=_pick(rng, PLACES))
        return Scene((first,), background)
    second = _draw_thing(rng, unseen=False)
    while second.colour == first.colour:  # two colours, so that "which is which" has an answer
        second = _draw_thing(rng, unseen=False)
    if says_size:
        second = replace(second, size=_pick(rng, SIZES))
    return Scene((first, second), background, relation=_pick(rng, RELATIONS))


def confuse(rng: np.random.Generator, scene: Scene) -> Scene:
    """The scene with one or two of its words wrong, as captions from the web are wrong."""
    wrong = scene
    for _ in range(int(rng.integers(1, 3))):
        wrong = _swap_one_word(rng, wrong)
    return wrong


def _other(rng: np.random.Generator, words: Sequence[str], word: str | None) -> str:
    return _pick(rng, [other for other in words if other != word])


def _swap_one_word(rng: np.random.Generator, scene: Scene) -> Scene:
    kinds = ["colour", "shape", "background"]
    kinds += ["relation"] if scene.relation else []
    kinds += ["size"] if scene.things[0].size else []
    kinds += ["place"] if scene.things[0].place else []
    kind = _pick(rng, kinds)
    if kind == "background":
        return replace(scene, background=_other(rng, BACKGROUNDS, scene.background))
    if kind == "relation":
        return replace(scene, relation=_other(rng, RELATIONS, scene.relation))
    index = int(rng.integers(len(scene.things))) if kind != "place" else 0
    thing = scene.things[index]
    words = {"colour": COLOURS, "shape": SHAPES, "size": SIZES, "place": PLACES}[kind]
    changed = replace(thing, **{kind: _other(rng, words, getattr(thing, kind))})
    if (changed.shape, changed.colour) in UNSEEN:
        return scene
    things = tuple(changed if i == index else old for i, old in enumerate(scene.things))
    if len(things) == 2 and things[0].colour == things[1].colour:
        return scene
    return replace(scene, things=things)
