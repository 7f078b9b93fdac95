"""The frozen reference's log-likelihoods, computed once for a fixed set of corruptions.

A preference step costs four passes: the policy's forward and backward (two) and the reference's
forward. The reference never changes, so with K corruptions of every image fixed beforehand its
answers can be kept: three passes remain, and no second network is held. The price is that an image
is only ever seen under its K corruptions, and one pass over all images K times before the first
run; later runs of a sweep with the same model, images and K find it done.

    data/reference_cache/<fingerprint>/shard-00000-of-00008.safetensors   float32 [rows, K]

Corruption k of an image follows from (train.seed, its prompt, k): images of one prompt share it, as
objectives on pairs want. A killed computation goes on with the next shard.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from tqdm import tqdm

from tgo.pipeline.generators.base import Conditions, Corruption
from tgo.pipeline.seeds import sample_seed
from tgo.pipeline.storage.atomic import canonical, replacing
from tgo.pipeline.storage.fingerprint import code_sha256
from tgo.pipeline.storage.shards import read_latents, read_metadata, read_shard

if TYPE_CHECKING:
    from tgo.pipeline.config.train_settings import Train
    from tgo.pipeline.generators.base import Family
    from tgo.trainer.dataset import LabelledRows, PromptTable
    from tgo.trainer.distributed import Ranks
    from tgo.trainer.objectives import Objective
    from tgo.trainer.stream import Batch

NAME = "log_likelihood"
OK = "ok"
Measure = Callable[[Tensor, Conditions, Corruption], Tensor]
"""The reference's log-likelihoods ``[B]`` of latents under conditions and a corruption."""


def load_cache(
    folder: Path, rows: LabelledRows, family: Family, objective: Objective, train: Train
) -> ReferenceCache | None:
    """The cache that the settings ask for, yet to be filled; None if they or the objective do not.

    The settings were checked when they were read (`tgo.pipeline.config.objectives`).
    """
    if train.reference_cache is None or not objective.needs_reference:
        return None
    return ReferenceCache(folder, rows, family, train, train.reference_cache)


class FixedCorruptions:
    """K corruptions of every image, drawn from seeds and never kept."""

    def __init__(self, family: Family, train: Train, count: int) -> None:
        self._family, self._seed, self._count = family, train.seed, count

    def choose(self, step: int, samples: int, every: int) -> np.ndarray:
        """Which corruption each sample of a step takes, int64 ``[samples]``.

        ``every`` samples in a row (the images of a pair) take the same.
        """
        generator = torch.Generator().manual_seed(sample_seed(self._seed, "fixed", step))
        chosen = torch.randint(self._count, (samples // every,), generator=generator)
        return chosen.repeat_interleave(every).numpy()

    def make(self, latents: Tensor, prompts: Iterable[str], chosen: Iterable[int]) -> Corruption:
        """Corruption ``chosen[i]`` of the prompt ``prompts[i]`` for ``latents[i]``, on the CPU."""
        parts = []
        for at, (prompt, number) in enumerate(zip(prompts, chosen, strict=True)):
            seed = sample_seed(self._seed, f"corruption {prompt}", int(number))
            generator = torch.Generator().manual_seed(seed)
            parts.append(self._family.corrupt(latents[at : at + 1].cpu(), generator))
        return Corruption(*(torch.cat(column) for column in zip(*parts, strict=True)))


class ReferenceCache:
    """What the reference says of every image under each of its ``count`` corruptions."""

    def __init__(
        self, folder: Path, rows: LabelledRows, family: Family, train: Train, count: int
    ) -> None:
        self._rows, self._count, self._batch_size = rows, count, train.batch_size
        self._accumulate = train.gradient_accumulation_steps
        self._corruptions = FixedCorruptions(family, train, count)
        self._folder = folder / _digest(rows, family, train, count)
        self._prompts, self._places = _numbered(rows)
        self._values: Tensor | None = None

    def fill(self, measure: Measure, ranks: Ranks) -> None:
        """Compute what is not there, shard by shard, each process its share; then read it all.

        No more images at once than a step holds.
        """
        size = max(1, self._batch_size // (self._accumulate * ranks.size))
        mine = self._rows.shards[ranks.rank :: ranks.size]
        for path, table in tqdm(
            mine, desc="reference", unit="shard", mininterval=1, disable=not ranks.is_main
        ):
            target = self._target(path)
            if _read(target) is None:
                found = self._measure(path, table, measure, size)
                with replacing(target) as file:
                    file.write(save({NAME: found}))
        ranks.barrier()
        self._values = torch.cat([load_file(self._target(p))[NAME] for p, _ in self._rows.shards])

    def _target(self, shard: Path) -> Path:
        return self._folder / f"{shard.stem}.safetensors"

    def draw(self, step: int, batch: Batch, every: int) -> tuple[Corruption, Tensor]:
        """What a step draws for a batch on the CPU, and the reference's ``[B]`` under it."""
        if self._values is None:
            raise ValueError("the cache is empty: fill it first")
        whole = self._corruptions.choose(step, self._batch_size, every)
        chosen = whole[batch.start : batch.start + len(batch.rows)]
        numbers = batch.rows.numpy()
        prompts = [self._prompts[number] for number in numbers]
        corruption = self._corruptions.make(batch.latents, prompts, chosen)
        return corruption, self._values[self._places[numbers], chosen]

    def _measure(self, path: Path, table: PromptTable, measure: Measure, size: int) -> Tensor:
        """Log-likelihoods ``[rows, K]`` of a shard, ``size`` at once; NaN for failed images."""
        latents = read_latents(path)
        columns = read_shard(path, ["status", "prompt_id"])
        ids = columns["prompt_id"].to_pylist()
        prompt = table.find(columns["prompt_id"].combine_chunks())
        found = torch.full((len(latents), self._count), torch.nan)
        places = np.flatnonzero(np.array(columns["status"].to_pylist()) == OK)
        for start in range(0, len(places), size):
            here = places[start : start + size]
            padded = np.concatenate([here, np.repeat(here[-1:], size - len(here))])
            some = torch.from_numpy(latents[padded])
            given = {name: value[prompt[padded]] for name, value in table.conditions.items()}
            for number in range(self._count):
                corruption = self._corruptions.make(
                    some, [ids[at] for at in padded], [number] * len(padded)
                )
                values = measure(some, given, corruption)
                found[here, number] = values[: len(here)].float().cpu()
        return found


def _digest(rows: LabelledRows, family: Family, train: Train, count: int) -> str:
    """What decides the values, in 16 hexadecimal digits; labels and objective are no part of it."""
    facts: dict[str, Any] = {
        "generator": family.describe(),
        "shards": [
            {key: read_metadata(path).get(key) for key in ("tgo.fingerprint", "tgo.embeddings")}
            for path, _ in rows.shards
        ],
        "temperature": train.temperature,
        "precision": train.precision,
        "compile": train.compile,
        "seed": train.seed,
        "count": count,
        "batch_size": train.batch_size,
        "threads": torch.get_num_threads(),
        "code": code_sha256(__name__, type(family).__module__),
    }
    for shard in facts["shards"]:  # scores may change, images may not
        shard["tgo.fingerprint"] = shard["tgo.fingerprint"]["images"]
    return hashlib.sha256(canonical(facts).encode()).hexdigest()[:16]


def _numbered(rows: LabelledRows) -> tuple[list[str], np.ndarray]:
    """Prompt id of every number that batches carry, and its row among those of all shards."""
    size = sum(len(group.places) for group in rows.groups)
    prompts, places = [""] * size, np.zeros(size, np.int64)
    starts, tables = _starts(rows), [table for _, table in rows.shards]
    for group in rows.groups:
        here = slice(group.first, group.first + len(group.places))
        places[here] = starts[group.shard, group.index] + group.places
        prompts[here] = [tables[group.shard].ids[number] for number in group.prompt]
    return prompts, places


def _starts(rows: LabelledRows) -> dict[tuple[int, int], int]:
    """How many rows lie before each (shard, row group) in all."""
    starts, before = {}, 0
    for shard, (path, _) in enumerate(rows.shards):
        metadata = pq.read_metadata(path)
        for index in range(metadata.num_row_groups):
            starts[shard, index] = before
            before += metadata.row_group(index).num_rows
    return starts


def _read(path: Path) -> Tensor | None:
    """A shard's values; None where there is no file or a damaged one, which is made anew."""
    if not path.is_file():
        return None
    try:
        return load_file(path)[NAME]
    except (SafetensorError, KeyError):
        return None
