"""A small labelled data set and a random model, as stages one and two would leave them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import pyarrow as pa
import torch

from tests.settings import changed
from tgo.pipeline.config.settings import Settings
from tgo.pipeline.storage import embeddings, shards
from tgo.trainer.paths import Paths

SHAPE = (4, 8, 8)
SIZES = [[16, 16], [20, 12], [12, 20]]
SHAPES = [SHAPE, (4, 6, 10), (4, 10, 6)]
"""Width and height of images of several sizes, and the shapes of their latents."""
TOKENS, WIDTH = 12, 16
IMAGES_PER_PROMPT = 4
OBJECTIVES: dict[str, dict[str, Any]] = {
    "tgo": {"shift_decay": None},
    "bco": {"shift_decay": 0.9},
    "csft": {"negative_prefix": "red "},
    "dpo": {"pairs": "all"},
    "dspo": {"pairs": "all", "beta": 1.0},
    "mapo": {"pairs": "all", "beta": 0.1, "scale": 0.5, "steps": 1000.0},
    "rwr": {"beta": 1.0},
    "lair": {"penalty": 1.0},
    "nft": {"mix": 1.0, "clip": 5.0},
}


class Inputs(TypedDict):
    """The folders that training reads."""

    scored: Path
    labelled: Path
    embeddings: Path


@dataclass(frozen=True)
class Place:
    """The folders of one data set, and of the runs that train on it."""

    root: Path

    @property
    def inputs(self) -> Inputs:
        return Inputs(
            scored=self.root / "scored",
            labelled=self.root / "labelled",
            embeddings=self.root / "embeddings",
        )

    def paths(self, run: str = "run") -> Paths:
        folder = self.root / run
        return Paths(
            **self.inputs,
            references=self.root / "references",
            checkpoints=folder / "checkpoints",
            tuned=folder / "tuned",
            log=folder / "train_log.jsonl",
            samples=folder / "samples",
        )


def write_rows(
    root: Path,
    *,
    shard_rows: tuple[int, ...] = (80, 72, 8),
    excluded: int = 3,
    tokens: int = 0,
    several_sizes: bool = False,
) -> Place:
    """Labelled shards whose positives are bright latents and whose negatives are dark ones.

    Every ``excluded``-th row is failed (no latents) and labelled -1. With ``tokens`` they are those
    of a masked model: latents are integers below it, and prompts have a pooled embedding, too.
    With ``several_sizes`` each shard has the next of `SHAPES`.
    """
    random = np.random.default_rng(0)
    for index, count in enumerate(shard_rows):
        name = shards.shard_name(index, len(shard_rows))
        row = np.arange(count)
        failed = row % excluded == excluded - 1 if excluded else np.zeros(count, bool)
        label = np.where(failed, -1, random.integers(0, 2, count)).astype(np.int8)
        shift = np.where(label == 1, 1.0, -1.0)[:, None]
        whole = SHAPES[index] if several_sizes else SHAPE
        shape = whole[1:] if tokens else whole
        latents = random.normal(0, 0.3, (count, int(np.prod(shape)))) + shift
        if tokens:
            latents = np.clip(np.round((latents + 2) * tokens / 4), 0, tokens - 1).astype(np.int32)
        else:
            latents = latents.astype(np.float16)
        prompts = -(-count // IMAGES_PER_PROMPT)
        digest = _write_embeddings(root, name, index, prompts, pooled=bool(tokens))
        table = _scored(index, latents, shape, failed, digest, several_sizes)
        shards.write_shard(root / "scored" / name, table)
        labels = {
            "id": [f"p{index}.{r // IMAGES_PER_PROMPT}-{r % IMAGES_PER_PROMPT:03d}" for r in row],
            "score": np.where(failed, np.nan, label).astype(np.float32),
            "threshold": np.full(count, 0.5, np.float32),
            "label": label,
            "weight": (1 + random.random(count)).astype(np.float32),
        }
        shards.write_shard(
            root / "labelled" / name, pa.table(labels, schema=shards.LABELLED_SCHEMA)
        )
    return Place(root)


def _scored(
    index: int,
    latents: np.ndarray,
    shape: tuple[int, ...],
    failed: np.ndarray,
    digest: str,
    several_sizes: bool,
) -> pa.Table:
    count = len(latents)
    metadata = {
        "tgo.latents": {"shape": shape, "dtype": str(latents.dtype)},
        "tgo.fingerprint": {"images": "test"},
        "tgo.embeddings": {"sha256": digest},
    }
    prompts = [f"p{index}.{row // IMAGES_PER_PROMPT}" for row in range(count)]
    replicates = [row % IMAGES_PER_PROMPT for row in range(count)]
    return pa.table(
        {
            "id": [f"{p}-{r:03d}" for p, r in zip(prompts, replicates, strict=True)],
            "prompt": prompts,
            "prompt_id": prompts,
            "domain": ["all"] * count,
            "replicate": replicates,
            "seed": list(range(count)),
            "status": ["error" if bad else "ok" for bad in failed],
            "error": [""] * count,
            "image": [None] * count,
            "latents": shards.latents_column(latents, failed, several_sizes=several_sizes),
            "clip": np.zeros(count, np.float32),
        },
        schema=shards.scored_schema(["clip"], shape, metadata, several_sizes=several_sizes),
    )


def _write_embeddings(root: Path, shard: str, index: int, prompts: int, *, pooled: bool) -> str:
    """Each prompt's embedding is constant and tells which prompt of which shard it is."""
    numbers = (100 * index + torch.arange(prompts, dtype=torch.float16)) / 256
    given = {"embeddings": numbers[:, None, None].expand(-1, TOKENS, WIDTH)}
    empty = {"embeddings": torch.full((TOKENS, WIDTH), -1, dtype=torch.float16)}
    if pooled:
        given["pooled"] = numbers[:, None].expand(-1, WIDTH)
        empty["pooled"] = torch.full((WIDTH,), -1, dtype=torch.float16)
    return embeddings.write(
        embeddings.path_for(root / "embeddings", Path(shard)),
        embeddings.Embeddings(given, empty),
        [f"p{index}.{number}" for number in range(prompts)],
    )


def make_settings(
    model: Path,
    *,
    family: str = "diffusion",
    resolution: list[list[int]] | None = None,
    **train: Any,
) -> Settings:
    """Settings of a short run on one thread; ``train`` replaces some of its keys."""
    values = {
        "objective": "tgo",
        "objectives": OBJECTIVES,
        "beta": 1.0,
        "auto_beta": {"factor": 0.2, "rate": 0.05, "start": 1.0},
        "reference": "initial",
        "temperature": 1e-2,
        "learning_rate": 1e-3,
        "batch_size": 8,
        "steps": 12,
        "ema_decay": 0.9,
        "weight_decay": 0.01,
        "max_grad_norm": 1.0,
        "prompt_dropout": 0.2,
        "collapse": {
            "likelihood_fall": None,
            "accuracy": None,
            "held_out_rise": None,
            "patience": 3,
        },
        "workers": 0,
        "checkpoint_every": 5,
        "log_every": 3,
        "loggers": [],
        "samples": None,
        "seed": 0,
    }
    return changed(
        {
            "seed": 0,
            "threads": 1,
            "device": "cpu",
            "prompts": {"train": "a", "validation": "b", "tests": {"seen": "c"}},
            "generator": {
                "family": family,
                "model": str(model),
                "resolution": resolution,
                "steps": 2,
                "guidance_scale": 1.0,
                "dtype": "float32",
            },
            "rewards": {"clip": "none"},
            "score": {
                "prompts": 40,
                "images_per_prompt": 4,
                "batch_size": 8,
                "rows_per_shard": 80,
                "compile": False,
            },
            "label": {"reward": "clip", "weights": "none", "confidence": None},
            "train": values | train,
            "evaluate": {"prompts": 1, "images_per_prompt": 1, "judge": None},
            "report": {"gallery": 1},
        }
    )
