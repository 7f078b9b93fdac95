"""The dataset card: README.md beside scored shards, so that the folder can be pushed as it is.

Made from the shards alone, so it is the same bytes whoever makes it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tgo.pipeline.config.columns import RATED
from tgo.pipeline.config.label_settings import RATING
from tgo.pipeline.storage import manifest, shards
from tgo.pipeline.storage.atomic import replacing
from tgo.pipeline.storage.fingerprint import LISTS_FORMAT
from tgo.pipeline.templates import template
from tgo.pipeline.wording import TITLES
from tgo.rewards.checkpoint import UNPUBLISHED

NAME = "README.md"
_SIZES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")
"""Upper ends of the hub's size categories, from 1,000 rows on."""


def write(folder: Path) -> Path:
    """Write the card of a folder of scored shards, unless it is there; returns its path.

    Raises InputError if the folder holds no shards, or not all of them.
    """
    path, text = folder / NAME, render(folder).encode()
    if not path.exists() or path.read_bytes() != text:
        with replacing(path) as file:
            file.write(text)
    return path


def render(folder: Path) -> str:
    """The card's text: its YAML header for the hub, and what a reader wants to know."""
    from huggingface_hub import DatasetCardData

    paths = shards.shard_paths(folder)
    metadata = shards.read_metadata(paths[0])
    entries = manifest.read(folder)
    rows = sum((entries.get(path.name) or manifest.entry(path))["rows"] for path in paths)
    imported = RATING in metadata["tgo.rewards"]
    known = {*shards.FIXED_COLUMNS, *RATED, *metadata["tgo.rewards"]}
    header = DatasetCardData(
        pretty_name="Rated images" if imported else "Scored images",
        task_categories=["text-to-image"],
        size_categories=_size_category(rows),
        tags=["preference", "scalar-feedback", "tgo"],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": "train", "path": "shard-*.parquet"}],
            }
        ],
    )
    return template("dataset_card.md.j2").render(
        header=header.to_yaml(),
        rows=rows,
        shards=len(paths),
        imported=imported,
        aggregate=metadata["tgo.rewards"].get(RATING, {}).get("aggregate"),
        counted=metadata["tgo.rewards"].get(RATING, {}).get("counted", "ratings"),
        kept=[name for name in shards.read_schema(paths[0]).names if name not in known],
        generator=_generator(metadata["tgo.fingerprint"]["images"]),
        rewards=metadata["tgo.rewards"],
        stand_ins=_stand_ins(metadata["tgo.rewards"]),
        latents=metadata["tgo.latents"]["dtype"],
        shapes=_shapes(paths, metadata),
        versions=metadata["tgo.versions"],
    )


def _shapes(paths: list[Path], metadata: dict[str, Any]) -> list[str]:
    """The shapes of latents: the first shard's, unless images are of several sizes."""
    several = metadata["tgo.fingerprint"]["images"].get("format") == LISTS_FORMAT
    found = [shards.read_metadata(path) for path in paths] if several else [metadata]
    shapes = (each["tgo.latents"]["shape"] for each in found)
    return list(dict.fromkeys(" x ".join(map(str, shape)) for shape in shapes))


def _generator(images: dict[str, Any]) -> dict[str, Any]:
    described: dict[str, Any] = images["generator"]
    return {key: value for key, value in described.items() if key != "latent_shape"}


def _stand_ins(rewards: dict[str, Any]) -> list[str]:
    """Titles of the reward models that bear a published model's name with other weights."""
    return [TITLES[name] for name, model in rewards.items() if model["version"] == UNPUBLISHED]


def _size_category(rows: int) -> str:
    if rows < 1000:
        return "n<1K"
    place = min(len(str(rows)) - 4, len(_SIZES) - 2)
    return f"{_SIZES[place]}<n<{_SIZES[place + 1]}"
