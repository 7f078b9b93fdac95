"""One scored shard at a time: generated, or completed from its stored images.

Sampling runs in the calling thread; decoding, scoring, encoding and writing follow it in worker
threads, batch by batch. A shard is committed before the next one begins, so a kill costs one shard
at most.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from torch import Tensor

from tgo.pipeline.errors import InputError
from tgo.pipeline.generators.base import Family
from tgo.pipeline.scoring import sampling
from tgo.pipeline.scoring.score_tables import ScoreTables
from tgo.pipeline.scoring.shard_plan import PlannedShard, ShardState
from tgo.pipeline.scoring.worker_threads import Workers
from tgo.pipeline.storage import embeddings, fingerprint, shards
from tgo.pipeline.storage.embeddings import Embeddings
from tgo.pipeline.storage.shard_writer import Entry, Writer, writing
from tgo.rewards.panel import Panel, library_versions

Scores = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Job:
    """The models that make the rows of shards, and the numbers that decide them."""

    family: Family
    panel: Panel
    seed: int
    images_per_prompt: int
    batch_size: int
    compiled: bool = False
    """Whether the family's network is; its images then differ in their last bits."""
    tables: ScoreTables = field(default_factory=lambda: ScoreTables({}))
    """Scores that already exist, by image id."""

    @property
    def device(self) -> str:
        """Where the family's network is: cpu or cuda."""
        return next(self.family.network.parameters()).device.type

    def rows(self, shard: PlannedShard) -> list[sampling.Row]:
        return sampling.rows_of(
            shard.prompts, seed=self.seed, images_per_prompt=self.images_per_prompt
        )


class ShardResult(NamedTuple):
    """How a shard came to be what it should be, and what the manifest says of it."""

    how: Literal["kept", "completed", "made"]
    entry: Entry | None  # None for a kept one: nothing was written


class ShardBuilder:
    """Makes shards, or completes those that lack something.

    Args:
        job: The models and the numbers that decide the rows.
        workers: The threads that follow the sampling.
        on_rows: Called with the number of rows that were finished, for a progress bar.
    """

    def __init__(self, job: Job, workers: Workers, on_rows: Callable[[int], object]) -> None:
        self._job, self._workers, self._on_rows = job, workers, on_rows

    def build(self, shard: PlannedShard, state: ShardState | None) -> ShardResult:
        """Do what a shard still needs.

        Args:
            shard: The plan.
            state: What is there and may stay of it, if anything.

        Returns:
            How the shard came to be whole, and its entry of the manifest if it was written.

        Raises:
            InputError: the disk is full (finished shards stay), or a reward model gives NaN or an
                infinity.
        """
        if state and state.complete:
            return ShardResult("kept", None)
        if state and (entry := self._complete(shard, state)):
            return ShardResult("completed", entry)
        return ShardResult("made", self._make(shard))

    def _make(self, shard: PlannedShard) -> Entry:
        """From nothing: embeddings, images, scores."""
        embedded, digest = self._embed(shard)
        rows, size = self._job.rows(shard), self._job.batch_size
        batches = sampling.sample(self._job.family, rows, embedded, size, shard.size)
        with (
            writing(shard.path, self._schema(shard, digest)) as writer,
            self._workers.finished(),
        ):
            self._workers.finish.put(self._job.panel.forget)
            for start, sampled in zip(range(0, len(rows), size), batches, strict=True):
                batch = rows[start : start + size]
                self._workers.finish.put(partial(self._finish, batch, sampled, writer))
        return writer.entry()

    def _finish(
        self, rows: Sequence[sampling.Row], sampled: sampling.Sampled, writer: Writer
    ) -> None:
        images = sampling.decode(self._job.family, sampled)
        scores = self._score(self._job.panel, rows, images, sampled.usable)
        self._workers.store.put(partial(self._store, rows, sampled, images, scores, writer))

    def _store(
        self,
        rows: Sequence[sampling.Row],
        sampled: sampling.Sampled,
        images: Tensor,
        scores: Scores,
        writer: Writer,
    ) -> None:
        pngs = self._workers.each(sampling.encode_png, images)
        columns = _origin(rows, sampled.usable) | {
            "image": _image_column(rows, pngs),
            "latents": shards.latents_column(
                sampled.latents[: len(rows)].numpy(),
                several_sizes=len(self._job.family.latent_shapes) > 1,
            ),
            **_score_columns(scores, sampled.usable),
            **self._tabled(rows, self._job.tables.names),
        }
        writer.add(pa.table({name: columns[name] for name in writer.schema.names}, writer.schema))
        self._on_rows(len(rows))

    def _complete(self, shard: PlannedShard, state: ShardState) -> Entry | None:
        """Fill what a shard lacks from its stored images; None if they must be made anew.

        That is so when its embeddings are lost and cannot be made again to the same bytes: images
        and embeddings would no longer belong together.
        """
        digest = shards.read_metadata(shard.path)["tgo.embeddings"]["sha256"]
        if not state.embeddings_intact and self._embed(shard)[1] != digest:
            return None
        table = shards.read_shard(shard.path)
        columns = {name: table[name] for name in (*shards.FIXED_COLUMNS, *state.rewards)}
        lacking = [name for name in shard.rewards if name not in state.rewards]
        tabled = [name for name in lacking if name in self._job.tables.names]
        columns |= self._tabled(self._job.rows(shard), tabled)
        missing = [name for name in lacking if name not in tabled]
        if missing:
            images = [sampling.decode_png(image["bytes"]) for image in table["image"].to_pylist()]
            usable = table["status"].to_numpy() == "ok"
            panel = self._job.panel.only(missing)
            scores = self._score(panel, self._job.rows(shard), images, usable)
            columns |= _score_columns(scores, usable)
        schema = self._schema(shard, digest)
        with writing(shard.path, schema) as writer:
            writer.add(pa.table({name: columns[name] for name in schema.names}, schema))
        self._on_rows(table.num_rows)
        return writer.entry()

    def _tabled(self, rows: Sequence[sampling.Row], names: Sequence[str]) -> dict[str, pa.Array]:
        """Scores of the tables: nothing of them is known of an image whose sampling failed."""
        return self._job.tables.columns([row.id for row in rows], names)

    def _score(
        self,
        panel: Panel,
        rows: Sequence[sampling.Row],
        images: Sequence[np.ndarray] | Tensor,
        usable: np.ndarray,
    ) -> Scores:
        """Scores per reward model [N]; InputError names a usable sample without a finite one."""
        texts = [row.prompt.text for row in rows]
        scores = sampling.score(panel, images, texts, self._job.batch_size)
        for name, values in scores.items():
            bad = ~np.isfinite(values) & usable
            if bad.any():
                row = int(bad.argmax())
                raise InputError(
                    f"{rows[row].id}: its {name} score is {values[row]}; check the checkpoint "
                    f"rewards.{name} and generator.dtype (float16 may overflow). Finished shards "
                    "stay"
                )
        return scores

    def _embed(self, shard: PlannedShard) -> tuple[Embeddings, str]:
        """Embed and store a shard's prompts; the file's sha256 ties it to its shard."""
        job = self._job
        texts = [prompt.text for prompt in shard.prompts]
        embedded = sampling.embed(job.family, texts, job.batch_size)
        ids = [prompt.id for prompt in shard.prompts]
        return embedded, embeddings.write(shard.embeddings, embedded, ids)

    def _schema(self, shard: PlannedShard, embeddings_sha256: str) -> pa.Schema:
        names = sorted(shard.rewards)
        libraries = {"libraries": library_versions()}
        facts = {name: own | libraries for name, own in self._job.panel.describe().items()}
        facts |= self._job.tables.describe()
        family = self._job.family
        dtype = str(family.latent_dtype).removeprefix("torch.")
        shape = family.latent_shapes[shard.size]
        return shards.scored_schema(
            names,
            shape,
            {
                "tgo.fingerprint": {"images": shard.images, "rewards": shard.rewards},
                "tgo.latents": {"shape": shape, "dtype": dtype},
                "tgo.rewards": {name: facts[name] for name in names},
                "tgo.embeddings": {"sha256": embeddings_sha256},
                "tgo.versions": fingerprint.versions(),
            },
            several_sizes=len(family.latent_shapes) > 1,
        )


def _origin(rows: Sequence[sampling.Row], usable: np.ndarray) -> dict[str, Any]:
    """The columns that say where a row comes from and whether it may be used."""
    return {
        "id": [row.id for row in rows],
        "prompt": [row.prompt.text for row in rows],
        "prompt_id": [row.prompt.id for row in rows],
        "domain": [row.prompt.domain for row in rows],
        "replicate": [row.replicate for row in rows],
        "seed": [row.seed for row in rows],
        "status": pa.array(["ok" if fine else "failed" for fine in usable]),
        "error": ["" if fine else "sampling gave NaN or infinite latents" for fine in usable],
    }


def _score_columns(scores: Scores, usable: np.ndarray) -> dict[str, pa.Array]:
    return {name: pa.array(values, mask=~usable) for name, values in scores.items()}


def _image_column(rows: Sequence[sampling.Row], pngs: Sequence[bytes]) -> list[dict[str, Any]]:
    return [{"bytes": png, "path": f"{row.id}.png"} for row, png in zip(rows, pngs, strict=True)]
