"""Which image pairs the report shows, and how they are put into the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tgo.pipeline.evaluation.paired_images import Judge, Pairs, ask, decode, read_images
from tgo.pipeline.training_log import sample_strips

COLUMNS = 6  # of sample images in the page, however long a run was
LARGEST = 384  # pixels a side in the page; larger images are shown smaller, never linked


class Pick(NamedTuple):
    """Row ``row`` of the pairs of one prompt set."""

    set_name: str
    row: int


@dataclass(frozen=True)
class Picture:
    """One image as shown: a data URI, its pixels, its scores and the gold verdict, if any."""

    source: str
    width: int
    height: int
    scores: dict[str, float]
    verdict: Any | None

    @property
    def enlarged(self) -> bool:
        """Whether the page shows it larger than it is."""
        return max(self.width, self.height) < 160


@dataclass(frozen=True)
class Card:
    """A prompt with its image before and after."""

    prompt: str
    set_name: str
    seed: int
    base: Picture
    tuned: Picture


def choose(pairs: Mapping[str, Pairs], reward: str, count: int, seed: int) -> dict[str, list[Pick]]:
    """The report's selections, by name.

    ``sample``: ``count`` pairs drawn at random by ``seed``, no prompt twice, spread evenly over
    the sets. ``best`` and ``worst``: by the tuned image's feedback score; ``gains`` and
    ``losses``: by what tuning changed; half as many of each, losses only where there are any.
    """
    every = [Pick(name, row) for name, joined in pairs.items() for row in range(len(joined))]
    score = np.array([pairs[name].tuned[reward][row] for name, row in every])
    gain = np.array([pairs[name].gain(reward)[row] for name, row in every])
    half = max(1, count // 2)

    def lowest(values: np.ndarray) -> list[Pick]:
        return [every[index] for index in np.argsort(values, kind="stable")[:half]]

    by_gain = {pick: float(value) for pick, value in zip(every, gain, strict=True)}
    return {
        "sample": _sample(pairs, count, seed),
        "best": lowest(-score),
        "worst": lowest(score),
        "gains": [pick for pick in lowest(-gain) if by_gain[pick] > 0],
        "losses": [pick for pick in lowest(gain) if by_gain[pick] < 0],
    }


def _sample(pairs: Mapping[str, Pairs], count: int, seed: int) -> list[Pick]:
    rng = np.random.default_rng(seed)
    queues = {name: _one_row_a_prompt(joined, rng) for name, joined in pairs.items()}
    picks: list[Pick] = []
    while len(picks) < count and any(queues.values()):
        for name, queue in queues.items():
            if queue and len(picks) < count:
                picks.append(Pick(name, queue.pop()))
    order = {name: index for index, name in enumerate(pairs)}
    return sorted(picks, key=lambda pick: (order[pick.set_name], pick.row))


def _one_row_a_prompt(joined: Pairs, rng: np.random.Generator) -> list[int]:
    shuffled = rng.permutation(len(joined)).tolist()
    return list({joined.prompt_ids[row]: row for row in shuffled}.values())


def cards(
    picks: Sequence[Pick],
    pairs: Mapping[str, Pairs],
    folders: Mapping[str, tuple[Path, Path]],
    judge: Judge | None,
) -> dict[Pick, Card]:
    """Read, judge and embed the picked images; ``folders`` holds (base, tuned) by set."""
    made: dict[Pick, Card] = {}
    for set_name, joined in pairs.items():
        rows = sorted({pick.row for pick in picks if pick.set_name == set_name})
        shown = []
        for folder, scores in zip(folders[set_name], (joined.base, joined.tuned), strict=True):
            images = read_images(folder, [joined.ids[row] for row in rows])
            shown.append(
                [
                    _picture(
                        images[joined.ids[row]], joined.prompts[row], scores, row, judge, folder
                    )
                    for row in rows
                ]
            )
        for row, base, tuned in zip(rows, *shown, strict=True):
            made[Pick(set_name, row)] = Card(
                joined.prompts[row], set_name, joined.seeds[row], base, tuned
            )
    return made


def _picture(
    image: bytes,
    prompt: str,
    scores: Mapping[str, np.ndarray],
    row: int,
    judge: Judge | None,
    folder: Path,
) -> Picture:
    source, width, height = embed(image)
    return Picture(
        source,
        width,
        height,
        {name: float(values[row]) for name, values in scores.items()},
        ask(judge, decode(image)[None], [prompt], folder)[0] if judge else None,
    )


class Progress(NamedTuple):
    """Sample images of training: a row a prompt, a column a step."""

    steps: list[int]
    rows: list[tuple[str, list[tuple[str, int, int]]]]
    """(prompt, its images as `embed` gives them, oldest first)."""


def progress(folder: Path) -> Progress:
    """The strips in ``folder``: at most ``COLUMNS``, evenly spread from the first to the last."""
    found = list(sample_strips.read(folder))
    if len(found) > COLUMNS:
        places = np.linspace(0, len(found) - 1, COLUMNS).round().astype(int)
        found = [found[place] for place in places]
    texts = sample_strips.facts(folder).get("prompts", []) if found else []
    shown = [[embed(_png(image)) for image in images] for _, images in found]
    by_prompt = zip(texts, map(list, zip(*shown, strict=True)), strict=True)
    return Progress([step for step, _ in found], list(by_prompt))


def _png(image: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def embed(image: bytes) -> tuple[str, int, int]:
    """A data URI, and width and height in pixels as shown.

    Small images go in as stored; large ones are reduced to ``LARGEST`` and compressed, or a page
    of real samples would weigh 100 MB.
    """
    from PIL import Image

    stored = Image.open(io.BytesIO(image))
    kind, size = f"image/{(stored.format or 'png').lower()}", stored.size
    if max(size) > LARGEST:
        reduced = stored.convert("RGB")
        reduced.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        reduced.save(buffer, "JPEG", quality=90)
        image, kind, size = buffer.getvalue(), "image/jpeg", reduced.size
    return f"data:{kind};base64,{base64.b64encode(image).decode()}", *size
