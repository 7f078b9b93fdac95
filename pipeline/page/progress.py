"""Sample images of training in the page: a strip a step, the prompts side by side."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from tgo.pipeline.page import atlas
from tgo.pipeline.training_log import sample_strips
from tgo.pipeline.wording import harmless

STEPS = 24
"""Steps the page shows, evenly spread from the first to the last."""


class Progress(NamedTuple):
    """``strips``: (step, link to its images) in order; ``prompts`` in the order of the images."""

    prompts: list[str]
    strips: list[tuple[int, str]]


def read(folder: Path) -> Progress:
    """The strips in ``folder``, at most ``STEPS``; none where training made none."""
    found = list(sample_strips.read(folder))
    if len(found) > STEPS:
        places = np.linspace(0, len(found) - 1, STEPS).round().astype(int)
        found = [found[place] for place in places]
    texts = sample_strips.facts(folder).get("prompts", []) if found else []
    prompts = [harmless(text) for text in texts]
    return Progress(prompts, [(step, atlas.strip(images)) for step, images in found])
