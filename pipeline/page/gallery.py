"""The pictures of the page: all pairs for the gallery, and a few that need no JavaScript."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup
from PIL import Image

from tgo.pipeline import layout
from tgo.pipeline.evaluation.paired_images import Pairs, read_images
from tgo.pipeline.page import atlas
from tgo.pipeline.storage.atomic import replacing
from tgo.pipeline.storage.results import TRUTH
from tgo.pipeline.wording import decimals_for

MOST = 4000
"""Pairs the page holds; of more a part evenly spread over the sets and drawn at random."""
FULL_QUALITY = 92
SIDES = ("Base model", "Tuned model")


class Pick(NamedTuple):
    """Row ``row`` of the pairs of one test set."""

    set_name: str
    row: int


class Selection(NamedTuple):
    """Pairs under a heading that says what they are chosen by."""

    title: str
    picks: list[Pick]


def telling(pairs: Mapping[str, Pairs], score: str | None, seed: int) -> list[tuple[str, Pick]]:
    """Six pairs for the first screen: two that gained most, two at random, two that lost most.

    By the truth where there is one, else by ``score``, else all at random. The same pair never
    twice, and as far as possible each kind from different sets.
    """
    judged = all(TRUTH in found.base for found in pairs.values())
    by = TRUTH if judged else score
    chance = sample(pairs, 6, seed)
    if by is None:
        return [("at random", pick) for pick in chance]
    gains = [
        (float(found.gain(by)[row]), _tie(found, score, by, row), Pick(name, row))
        for name, found in pairs.items()
        for row in range(len(found))
    ]
    rising = sorted(gains, key=lambda entry: entry[:2])
    word = "truth" if judged else "score"
    best = _spread([pick for gain, _, pick in reversed(rising) if gain > 0], 2)
    worst = _spread([pick for gain, _, pick in rising if gain < 0], 2)
    middle = [pick for pick in chance if pick not in (*best, *worst)]
    kinds = [
        *((f"{word} up most", pick) for pick in best),
        *(("at random", pick) for pick in middle[: 6 - len(best) - len(worst)]),
        *((f"{word} down most", pick) for pick in worst),
    ]
    return kinds


def selections(
    pairs: Mapping[str, Pairs], score: str | None, count: int, seed: int
) -> list[Selection]:
    """What a reader without JavaScript sees: a random sample, and the extremes of ``score``."""
    found = [Selection(f"{count} prompts at random", sample(pairs, count, seed))]
    if score is None:
        return found
    every = [Pick(name, row) for name, joined in pairs.items() for row in range(len(joined))]
    gain = np.concatenate([joined.gain(score) for joined in pairs.values()])
    order = np.argsort(gain, kind="stable")
    half = max(1, count // 2)
    gained = [every[place] for place in order[::-1][:half] if gain[place] > 0]
    lost = [every[place] for place in order[:half] if gain[place] < 0]
    more = [Selection("Biggest gains", gained), Selection("Biggest losses", lost)]
    return found + [selection for selection in more if selection.picks]


def sample(pairs: Mapping[str, Pairs], count: int, seed: int) -> list[Pick]:
    """``count`` pairs drawn by ``seed`` alone, no prompt twice, spread evenly over the sets."""
    rng = np.random.default_rng(seed)
    queues = {name: _one_row_a_prompt(joined, rng) for name, joined in pairs.items()}
    picks: list[Pick] = []
    while len(picks) < count and any(queues.values()):
        for name, queue in queues.items():
            if queue and len(picks) < count:
                picks.append(Pick(name, queue.pop()))
    order = {name: index for index, name in enumerate(pairs)}
    return sorted(picks, key=lambda pick: (order[pick.set_name], pick.row))


class Pictures:
    """The thumbnails of the pairs that the page shows, read once.

    Args:
        pairs: the image pairs by set.
        folders: where the images of the base and of the tuned model lie, by set.
        full: a folder for pictures that are larger than the page shows them.
        seed: chooses the pairs of a set that has more than the page has room for.
    """

    def __init__(
        self,
        pairs: Mapping[str, Pairs],
        folders: Mapping[str, tuple[Path, Path]],
        full: Path,
        seed: int,
    ) -> None:
        self.pairs = {name: _kept(joined, len(pairs), seed) for name, joined in pairs.items()}
        self._full = full
        self._large = False
        self._sides = {
            name: [
                self._read(name, joined, side, folder)
                for side, folder in zip(("base", "tuned"), folders[name], strict=True)
            ]
            for name, joined in self.pairs.items()
        }

    @property
    def link(self) -> str:
        """From a page in reports/ to the full pictures; empty where the page shows all pixels."""
        return self._full.relative_to(layout.REPORTS).as_posix() if self._large else ""

    def sheets(self) -> dict[str, list[dict[str, Any]]]:
        """The atlas of the base and of the tuned pictures, by set."""
        return {
            name: [vars(atlas.pack(side)) for side in sides] for name, sides in self._sides.items()
        }

    def pair(self, pick: Pick) -> tuple[str, str, int, int]:
        """Links to the base and the tuned picture of a pick, with width and height."""
        base, tuned = (side[pick.row] for side in self._sides[pick.set_name])
        return atlas.data_uri(base), atlas.data_uri(tuned), *base.size

    def _read(self, name: str, joined: Pairs, side: str, folder: Path) -> list[Image.Image]:
        stored = read_images(folder, joined.ids)
        shown = []
        for row, identifier in enumerate(joined.ids):
            shown.append(atlas.thumbnail(stored[identifier]))
            whole = Image.open(io.BytesIO(stored[identifier]))
            if whole.size != shown[-1].size:
                self._large = True
                with replacing(self._full / name / f"{row:06d}-{side}.jpg") as file:
                    whole.convert("RGB").save(file, "JPEG", quality=FULL_QUALITY)
        return shown


def data(
    pictures: Pictures,
    scores: Sequence[tuple[str, str]],
    main: str | None,
    sides: tuple[str, str] = SIDES,
) -> dict[str, Any]:
    """What the gallery's script works on: columns over all pairs, set after set.

    Args:
        pictures: the pairs that the page shows.
        scores: name and title of every score, the main one first.
        main: name of the main score; None if there is none.
        sides: what the two pictures of a pair are of.

    Returns:
        Values for JSON: sets with their sizes, prompts, domains, and a list over all pairs for each
        property and score.
    """
    pairs = pictures.pairs
    prompts = list(dict.fromkeys(text for joined in pairs.values() for text in joined.prompts))
    domains = sorted({name for joined in pairs.values() for name in joined.domains})
    number = {text: index for index, text in enumerate(prompts)}
    spread = {
        name: float(np.concatenate([joined.base[name] for joined in pairs.values()]).std())
        for name, _ in scores
    }
    decimals = {name: 2 if name == TRUTH else decimals_for(spread[name]) for name, _ in scores}
    return {
        "sets": list(pairs),
        "sizes": [len(joined) for joined in pairs.values()],
        "prompts": prompts,
        "domains": domains,
        "prompt": [number[text] for joined in pairs.values() for text in joined.prompts],
        "domain": [domains.index(name) for joined in pairs.values() for name in joined.domains],
        "seed": [str(seed) for joined in pairs.values() for seed in joined.seeds],
        "main": main,
        "sides": sides,
        "full": pictures.link,
        "scores": [
            {
                "name": name,
                "title": title,
                "decimals": decimals[name],
                "base": _column(pairs, name, "base", decimals[name]),
                "tuned": _column(pairs, name, "tuned", decimals[name]),
            }
            for name, title in scores
        ],
    }


def embedded(value: Mapping[str, Any]) -> Markup:
    """JSON inside a script element: no text of anyone's can end it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _column(pairs: Mapping[str, Pairs], name: str, side: str, decimals: int) -> list[float]:
    values = np.concatenate([getattr(joined, side)[name] for joined in pairs.values()])
    return [float(value) for value in values.round(decimals + 3)]  # whoever wins still does


def _kept(joined: Pairs, sets: int, seed: int) -> Pairs:
    """All pairs of a set, or the random part of them that the page has room for."""
    room = MOST // sets
    if len(joined) <= room:
        return joined
    kept = np.zeros(len(joined), bool)
    kept[np.random.default_rng(seed).permutation(len(joined))[:room]] = True
    return joined.only(kept)


def _tie(found: Pairs, score: str | None, by: str, row: int) -> float:
    """Among pairs whose truth changed alike, the change of the main score decides."""
    return 0.0 if score is None or score == by else float(found.gain(score)[row])


def _spread(picks: Sequence[Pick], count: int) -> list[Pick]:
    """The first ``count`` picks, each of another set while there are others."""
    first = list({pick.set_name: pick for pick in reversed(picks)}.values())
    first.sort(key=picks.index)
    rest = [pick for pick in picks if pick not in first]
    return [*first, *rest][:count]


def _one_row_a_prompt(joined: Pairs, rng: np.random.Generator) -> list[int]:
    shuffled = rng.permutation(len(joined)).tolist()
    return list({joined.prompt_ids[row]: row for row in shuffled}.values())
