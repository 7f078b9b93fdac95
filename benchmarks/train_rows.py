"""What the training benchmarks train on: the world's shards, or random ones of other sizes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from benchmarks.changes import changed
from benchmarks.generator_sizes import Size, write_model
from tgo.pipeline import layout
from tgo.pipeline.config import settings
from tgo.pipeline.config.settings import Settings
from tgo.pipeline.errors import InputError
from tgo.pipeline.storage import embeddings, shards

PER_PROMPT = 4


@dataclass(frozen=True)
class Place:
    """Where the rows of a benchmark lie, and the settings they are trained with."""

    settings: Settings
    scored: Path
    labelled: Path
    embeddings: Path
    reports: Path


def world(root: Path, train: Mapping[str, Any]) -> Place:
    """The default run's shards in the working directory; reports go to ``root``."""
    if not layout.LABELLED.is_dir():
        raise InputError(f"{layout.LABELLED}: is missing; run `dvc repro label` first")
    chosen = with_train(settings.load(layout.PARAMS), train)
    return Place(chosen, layout.SCORED, layout.LABELLED, layout.EMBEDDINGS, root)


def write(size: Size, root: Path, train: Mapping[str, Any], device: str = "cpu") -> Place:
    """A model of a size with random weights and rows enough for two batches, below ``root``."""
    chosen = with_train(settings.load(layout.PARAMS), {"batch_size": size.batch} | dict(train))
    write_model(size, root / "model", device)
    shape = (4, size.latent, size.latent)
    write_rows(root, shape, size.conditions, 2 * chosen.train.batch_size, pixels=size.pixels)
    told = {"model": str(root / "model"), "family": size.family}
    generator = chosen.generator.model_copy(update=told)
    chosen = chosen.model_copy(update={"generator": generator})
    return Place(chosen, root / "scored", root / "labelled", root / "embeddings", root)


def with_train(chosen: Settings, train: Mapping[str, Any]) -> Settings:
    """Settings with some of ``train`` changed."""
    return changed(chosen, {f"train.{key}": value for key, value in train.items()})


def write_rows(
    root: Path,
    shape: Sequence[int],
    conditions: Mapping[str, tuple[int, ...]],
    rows: int,
    pixels: int | None,
    place: tuple[int, int] = (0, 1),
) -> None:
    """A labelled shard of ``rows`` random rows; pictures of ``pixels`` a side, or none.

    ``place`` is its number and how many shards there are.
    """
    random, name = np.random.default_rng(place[0]), shards.shard_name(*place)
    number = np.arange(rows) + place[0] * rows
    prompts = [f"p{at // PER_PROMPT}" for at in number]
    unique = list(dict.fromkeys(prompts))
    digest = embeddings.write(
        embeddings.path_for(root / "embeddings", Path(name)),
        embeddings.Embeddings(
            {name: torch.randn(len(unique), *one).half() for name, one in conditions.items()},
            {name: torch.randn(one).half() for name, one in conditions.items()},
        ),
        unique,
    )
    latents = random.standard_normal((rows, int(np.prod(shape))), np.float32).astype(np.float16)
    metadata = {
        "tgo.latents": {"shape": list(shape), "dtype": "float16"},
        "tgo.fingerprint": {"images": "benchmark"},
        "tgo.embeddings": {"sha256": digest},
    }
    ids = [f"{prompt}-{at % PER_PROMPT:03d}" for at, prompt in zip(number, prompts, strict=True)]
    scored = {
        "id": ids,
        "prompt": [f"a red circle {prompt}" for prompt in prompts],
        "prompt_id": prompts,
        "domain": ["all"] * rows,
        "replicate": number % PER_PROMPT,
        "seed": number,
        "status": ["ok"] * rows,
        "error": [None] * rows,
        "image": [None if pixels is None else _picture(random, pixels) for _ in number],
        "latents": pa.FixedSizeListArray.from_arrays(pa.array(latents.ravel()), latents.shape[1]),
        "clip": np.zeros(rows, np.float32),
    }
    shards.write_shard(
        root / "scored" / name,
        pa.table(scored, schema=shards.scored_schema(["clip"], list(shape), metadata)),
    )
    labels = {
        "id": ids,
        "score": random.standard_normal(rows, np.float32),
        "threshold": np.zeros(rows, np.float32),
        "label": (number % 2).astype(np.int8),
        "weight": np.ones(rows, np.float32),
    }
    shards.write_shard(root / "labelled" / name, pa.table(labels, schema=shards.LABELLED_SCHEMA))


def _picture(random: np.random.Generator, pixels: int) -> dict[str, Any]:
    """Smooth, so that its PNG has a photograph's size, not noise's."""
    coarse = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((pixels, pixels), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}
