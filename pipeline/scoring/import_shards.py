"""What makes an imported shard: embeddings, pictures, latents, ratings and their fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from tgo.pipeline.config.label_settings import RATING, RATING_ERROR
from tgo.pipeline.generators.base import Family
from tgo.pipeline.generators.sizes import Size
from tgo.pipeline.scoring import import_images, sampling
from tgo.pipeline.sources.prompts import id_of
from tgo.pipeline.sources.ratings import RatedImage, Ratings
from tgo.pipeline.storage import embeddings, fingerprint, origin, shards
from tgo.pipeline.storage.atomic import canonical

_SAMPLING = ("sampler", "steps", "guidance_scale")
"""What of a family's description has no say in how it encodes."""


@dataclass(frozen=True, eq=False)
class RatedShard:
    """An imported shard as it should become; `images` is the image part of its fingerprint."""

    path: Path
    embeddings: Path
    rows: Sequence[RatedImage]
    images: Mapping[str, Any]
    size: Size
    """That of all its pictures."""


class Seen(NamedTuple):
    """What is known of a picture before any is decoded."""

    digest: str | None  # sha256 of its bytes; None where they cannot be read
    size: Size


class Job:
    """The model and the ratings that make the rows of shards."""

    def __init__(self, family: Family, ratings: Ratings, batch_size: int, threads: int) -> None:
        import torch

        self._family, self._ratings = family, ratings
        self._batch_size, self._threads = batch_size, threads
        self.sizes = list(family.latent_shapes)
        """Those that pictures may have."""
        described = family.describe()
        self._encoder = {
            "format": fingerprint.FORMAT,
            "generator": {key: described[key] for key in described if key not in _SAMPLING},
            "batch_size": batch_size,
            "threads": torch.get_num_threads(),
            "code": fingerprint.code_sha256(
                "tgo.pipeline.scoring.import_images",
                "tgo.pipeline.scoring.sampling",
                type(family).__module__,
            ),
        }
        rated = [[image.id, image.rating, image.n_ratings, image.error] for image in ratings.images]
        agreement = ratings.agreement
        self._facts = {
            RATING: {
                "model": Path(ratings.name).name,
                "version": "imported",
                "unit": ratings.unit,
                "checkpoint_sha256": hashlib.sha256(canonical(rated).encode()).hexdigest(),
                "dtype": "float32",
                "images": len(ratings.images),
                "counted": ratings.counted,
                "ratings": sum(image.n_ratings for image in ratings.images),
                "aggregate": ratings.how.value,
                "raters": agreement.raters if agreement else None,
                "alpha": agreement.alpha if agreement else None,
                "random_raters": agreement.random if agreement else {},
            }
        }
        self.readable = 0
        """Pictures whose bytes could be read so far."""

    def look(self, image: RatedImage) -> Seen:
        """Read a picture's bytes: its checksum, and the size that it will have."""
        try:
            data = self._ratings.pictures.read(image.location)
        except OSError:
            return Seen(None, self.sizes[0])
        self.readable += 1
        size = import_images.choose_size(data, self.sizes)
        return Seen(hashlib.sha256(data).hexdigest(), size)

    def images_part(self, digests: Mapping[RatedImage, str | None], size: Size) -> dict[str, Any]:
        """All that decides a shard's pictures, latents and embeddings; checksums by picture."""
        total = hashlib.sha256()
        for image, digest in digests.items():
            total.update(canonical([*image[:4], digest]).encode())
        part = fingerprint.of_shape(
            self._encoder, self._family.latent_shapes[size], several_sizes=self._several
        )
        return part | {"rows": total.hexdigest()}

    def rewards_part(self, shard: RatedShard) -> dict[str, Any]:
        """All that decides a shard's ratings and the columns that were kept."""
        rated = [[image.rating, image.n_ratings, image.error, *image.kept] for image in shard.rows]
        values = [*self._ratings.keep, *rated] if self._ratings.keep else rated
        digest = hashlib.sha256(canonical(values).encode()).hexdigest()
        return {RATING: self._facts[RATING] | {"rows": digest}}

    def make(self, shard: RatedShard) -> None:
        """Make a shard from nothing."""
        digest = self._embed(shard)
        encoded = list(
            import_images.encode(
                self._family,
                self._ratings.pictures,
                [image.location for image in shard.rows],
                size=shard.size,
                batch_size=self._batch_size,
                threads=self._threads,
            )
        )
        columns = _origin(shard.rows, encoded) | self._rated_columns(shard.rows)
        columns["latents"] = self._latents(encoded, shard.size)
        self._write(shard, columns, shard.images, digest)

    def update_ratings(self, shard: RatedShard) -> None:
        """Give a shard whose pictures are right its new ratings."""
        metadata = shards.read_metadata(shard.path)
        table = shards.read_shard(shard.path)
        columns = {name: table[name] for name in shards.FIXED_COLUMNS}
        columns |= self._rated_columns(shard.rows)
        self._write(shard, columns, shard.images, metadata["tgo.embeddings"]["sha256"])

    def _rated_columns(self, rows: Sequence[RatedImage]) -> dict[str, Any]:
        kept = {
            name: [image.kept[index] for image in rows]
            for index, name in enumerate(self._ratings.keep)
        }
        return {
            RATING: pa.array([image.rating for image in rows], pa.float32()),
            origin.COUNT: [image.n_ratings for image in rows],
            RATING_ERROR: pa.array([image.error for image in rows], pa.float32()),
            **kept,
        }

    @property
    def _several(self) -> bool:
        return len(self.sizes) > 1

    def _embed(self, shard: RatedShard) -> str:
        texts = list(dict.fromkeys(image.prompt for image in shard.rows))
        embedded = sampling.embed(self._family, texts, self._batch_size)
        return embeddings.write(shard.embeddings, embedded, [id_of(text) for text in texts])

    def _latents(self, rows: Sequence[import_images.Encoded], size: Size) -> pa.Array:
        family = self._family
        blank = np.zeros(family.latent_shapes[size], import_images.stored_type(family))
        latents = np.stack([blank if row.latents is None else row.latents for row in rows])
        missing = np.array([row.latents is None for row in rows])
        return shards.latents_column(latents, missing, several_sizes=self._several)

    def _write(
        self, shard: RatedShard, columns: dict[str, Any], images: Mapping[str, Any], embedded: str
    ) -> None:
        shape = self._family.latent_shapes[shard.size]
        schema = shards.scored_schema(
            [RATING, RATING_ERROR],
            shape,
            {
                "tgo.fingerprint": {"images": images, "rewards": self.rewards_part(shard)},
                "tgo.latents": {
                    "shape": shape,
                    "dtype": str(self._family.latent_dtype).removeprefix("torch."),
                },
                "tgo.rewards": self._facts,
                "tgo.embeddings": {"sha256": embedded},
                "tgo.versions": fingerprint.versions(),
            },
            counts=[origin.COUNT],
            texts=self._ratings.keep,
            several_sizes=self._several,
        )
        table = pa.table({name: columns[name] for name in schema.names}, schema=schema)
        shards.write_shard(shard.path, table)


def _origin(images: Sequence[RatedImage], rows: Sequence[import_images.Encoded]) -> dict[str, Any]:
    """The columns that say where a row comes from and whether it may be used."""
    return {
        "id": [image.id for image in images],
        "prompt": [image.prompt for image in images],
        "prompt_id": [id_of(image.prompt) for image in images],
        "domain": [image.domain for image in images],
        "replicate": [image.replicate for image in images],
        "seed": pa.nulls(len(images), pa.int64()),  # nobody knows it
        "status": ["failed" if row.error else "ok" for row in rows],
        "error": [row.error for row in rows],
        "image": [
            None if row.png is None else {"bytes": row.png, "path": f"{Path(image.id).stem}.png"}
            for image, row in zip(images, rows, strict=True)
        ],
    }
