"""`tgo import`: pictures with human ratings become scored shards, without any reward model.

The same contract as stage one: a numbered shard is the unit, its finished name the commit, and
what is there and still right is kept. A shard whose ratings alone have changed keeps its latents.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tgo.pipeline import layout
from tgo.pipeline.cards import dataset_card
from tgo.pipeline.config.settings import Settings
from tgo.pipeline.generators.base import Family
from tgo.pipeline.scoring import shard_plan
from tgo.pipeline.scoring.import_shards import Job, Planned
from tgo.pipeline.sources import ratings
from tgo.pipeline.sources.rating_tables import Source
from tgo.pipeline.sources.ratings import Rated, Ratings
from tgo.pipeline.storage import embeddings, fingerprint, manifest, origin, shards
from tgo.pipeline.storage.atomic import remove_partials
from tgo.pipeline.storage.locks import hold
from tgo.pipeline.storage.shard_writer import Entry
from tqdm import tqdm


@dataclass(frozen=True)
class Summary:
    """What a run did."""

    shards: int
    made: int
    rated: int
    failed: int
    first_error: str

    def __str__(self) -> str:
        kept = self.shards - self.made - self.rated
        bad = f"; {self.failed} images failed (the first: {self.first_error})"
        return (
            f"{self.shards} shards ({self.made} made, {self.rated} rated anew, {kept} kept)"
            f"{bad if self.failed else ''}"
        )


def run(settings: Settings, source: Source) -> None:
    """Command `import`: read a source and bring data/scored to hold its images and ratings."""
    from tgo.pipeline.generators import load_generator
    from tgo.pipeline.runtime import prepare

    origin.require(layout.SCORED, "imported")
    found = ratings.read(source)
    for note in found.notes:
        print(f"warning: {note}", file=sys.stderr)
    print(found.summary)
    family = load_generator(settings.generator, device=prepare(settings))
    summary = import_ratings(
        family,
        found,
        layout.SCORED,
        embeddings_folder=layout.EMBEDDINGS,
        batch_size=settings.score.batch_size,
        rows_per_shard=settings.score.rows_per_shard,
        threads=settings.threads,
    )
    dataset_card.write(layout.SCORED)
    print(f"{layout.SCORED}: {summary}")


def import_ratings(
    family: Family,
    found: Ratings,
    folder: Path,
    *,
    embeddings_folder: Path,
    batch_size: int,
    rows_per_shard: int,
    threads: int = 1,
) -> Summary:
    """Bring `folder` to hold the scored shards of rated pictures, doing only what is not yet done.

    A picture that cannot be read gets a row with status and error. Raises InputError when someone
    else holds the folder, it holds generated images, or the disk is full (finished shards stay).
    """
    with hold(folder):
        origin.require(folder, "imported")
        job = Job(family, found, batch_size, threads)
        planned = plan(found.images, folder, embeddings_folder, rows_per_shard)
        for place in (folder, embeddings_folder):
            remove_partials(place)
        kept = _survey(job, planned, folder)
        manifest.restrict(folder, {path.name for path, right in kept.items() if right})
        with tqdm(total=len(found.images), unit="image", desc=str(folder)) as bar:
            for shard in planned:
                if shard.path not in kept:
                    job.make(shard)
                elif not kept[shard.path]:
                    job.rate(shard)
                bar.update(len(shard.images))
        manifest.complete(folder)
        failed, error = _failures(planned)
    made = len(planned) - len(kept)
    return Summary(len(planned), made, list(kept.values()).count(False), failed, error)


def plan(
    images: Sequence[Rated], folder: Path, embeddings_folder: Path, rows_per_shard: int
) -> list[Planned]:
    """Shards of at most `rows_per_shard` rows; a prompt crosses them only if it has more."""
    parts: list[list[Rated]] = [[]]
    for start, end in _runs(images):
        while start < end:
            room = rows_per_shard - len(parts[-1])
            if room == 0 or (parts[-1] and end - start > room):
                parts.append([])
                continue
            parts[-1] += images[start : min(end, start + room)]
            start += room
    paths = [folder / shards.shard_name(index, len(parts)) for index in range(len(parts))]
    return [
        Planned(path, embeddings.path_for(embeddings_folder, path), part)
        for path, part in zip(paths, parts, strict=True)
    ]


def _runs(images: Sequence[Rated]) -> list[tuple[int, int]]:
    """Where the pictures of each prompt begin and end."""
    starts = [n for n in range(len(images)) if n == 0 or images[n].prompt != images[n - 1].prompt]
    return list(zip(starts, [*starts[1:], len(images)], strict=True))


def _survey(job: Job, planned: Sequence[Planned], folder: Path) -> dict[Path, bool]:
    """The shards that stay, each with whether its ratings are right, too.

    Every shard that is stale or beyond the plan is removed, and what is damaged is set aside.
    """
    known = manifest.read(folder)
    kept: dict[Path, bool] = {}
    for shard in planned:
        if shard.path.exists():
            with shard_plan.set_aside_if_bad(shard.path):
                kept[shard.path] = _ratings_are_right(job, shard, known.get(shard.path.name))
    wanted = {shard.path for shard in planned} | {shard.embeddings for shard in planned}
    places = shards.present(folder)
    for path in [*places, *planned[0].embeddings.parent.glob("shard-*.safetensors")]:
        if path not in wanted:
            print(f"{path}: is beyond the plan of {len(planned)} shards; removed", file=sys.stderr)
            path.unlink()
    return kept


def _ratings_are_right(job: Job, shard: Planned, entry: Entry | None) -> bool:
    """StaleError or InputError with the reason if not even the pictures are."""
    metadata = shard_plan.recorded_of(shard.path)
    recorded = metadata["tgo.fingerprint"]
    change = fingerprint.difference(recorded["images"], job.images_part(shard))
    if change:
        raise shard_plan.StaleError(f"{shard.path}: {change}; made anew")
    shard_plan.check_bytes(shard.path, entry)
    if not embeddings.is_intact(shard.embeddings, metadata["tgo.embeddings"]["sha256"]):
        raise shard_plan.StaleError(f"{shard.embeddings}: is missing or damaged; made anew")
    return bool(recorded["rewards"] == job.rewards_part(shard))


def _failures(planned: Sequence[Planned]) -> tuple[int, str]:
    """How many rows failed, and the first one's reason."""
    errors = [
        f"{row['id']}: {row['error']}"
        for shard in planned
        for row in shards.read_shard(shard.path, ["id", "error"]).to_pylist()
        if row["error"]
    ]
    return len(errors), errors[0] if errors else ""
