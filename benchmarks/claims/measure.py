"""A model's images on a set of prompts, made, scored and judged in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from tgo.pipeline.generators.base import Family
from tgo.pipeline.scoring import sampling
from tgo.pipeline.seeds import evaluation_seed
from tgo.pipeline.sources.prompts import Prompt
from tgo.pipeline.storage.embeddings import Embeddings
from tgo.rewards.panel import Panel

Measured = dict[str, NDArray[np.float32]]
"""By reward model or truth: float32 [prompts, images a prompt]."""


class Asked(NamedTuple):
    """Embedded prompts and image seeds, ready to sample: the same noise for every model."""

    prompts: Sequence[Prompt]
    rows: Sequence[sampling.Row]
    embedded: Embeddings
    images: int
    batch_size: int


def ask(
    family: Family, prompts: Sequence[Prompt], images: int, seed: int, batch_size: int
) -> Asked:
    """Prompts with their conditions and the seeds of `images` images each."""
    texts = [prompt.text for prompt in prompts]
    embedded = sampling.embed(family, texts, batch_size)
    rows = sampling.rows_of(prompts, seed=evaluation_seed(seed), images_per_prompt=images)
    return Asked(prompts, rows, embedded, images, batch_size)


@torch.no_grad()
def measure(family: Family, panel: Panel, asked: Asked, *, truth: bool) -> Measured:
    """Scores of one image for each row, and with `truth` what the judge reads in it."""
    pictures, scores = [], []
    for start, sampled in zip(
        range(0, len(asked.rows), asked.batch_size),
        sampling.sample(family, asked.rows, asked.embedded, asked.batch_size),
        strict=True,
    ):
        images = sampling.decode(family, sampled)
        texts = [row.prompt.text for row in asked.rows[start : start + asked.batch_size]]
        found = panel.score(images, texts)
        scores.append({name: value.float().numpy() for name, value in found.items()})
        pictures.append(images.permute(0, 2, 3, 1).numpy())
    panel.forget()
    shape = (len(asked.prompts), asked.images)
    merged = {name: np.concatenate([part[name] for part in scores]) for name in panel.names}
    if truth:
        from tgo.data.world.truth import judge

        prompts = [row.prompt.text for row in asked.rows]
        verdicts = judge(np.concatenate(pictures), prompts)
        merged |= {key: np.array([v.grades[key] for v in verdicts]) for key in verdicts[0].grades}
    return {name: values.astype(np.float32).reshape(shape) for name, values in merged.items()}
