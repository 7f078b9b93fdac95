"""`tgo import`: pictures with human ratings become scored shards, without any reward model.

The same contract as stage one: a numbered shard is the unit, its finished name the commit, and
what is there and still right is kept. A shard whose ratings alone have changed keeps its latents.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from tgo.pipeline import layout
from tgo.pipeline.cards import dataset_card
from tgo.pipeline.config.columns import check_new_columns
from tgo.pipeline.config.settings import Settings
from tgo.pipeline.errors import DamagedError, InputError
from tgo.pipeline.generators.base import Family
from tgo.pipeline.scoring import shard_plan
from tgo.pipeline.scoring.import_shards import Job, RatedShard
from tgo.pipeline.sources import ratings
from tgo.pipeline.sources.aggregates import Aggregate
from tgo.pipeline.sources.image_table import Source
from tgo.pipeline.sources.ratings import RatedImage, Ratings
from tgo.pipeline.storage import embeddings, manifest, origin, shards
from tgo.pipeline.storage.locks import hold
from tgo.pipeline.storage.shard_writer import Entry

SHOWN = 5
"""Rows that `--dry-run` shows, and kinds of failures that a summary lists."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Summary:
    """How many shards were made, given new ratings or kept, and the rows that failed by reason."""

    shards: int
    made: int
    rated: int
    images: int
    failures: dict[str, int]
    first_failure: str

    @property
    def failed(self) -> int:
        """Rows without a picture."""
        return sum(self.failures.values())

    def __str__(self) -> str:
        kept = self.shards - self.made - self.rated
        bad = f"; {self.failed} images failed (the first: {self.first_failure})"
        return (
            f"{self.shards} shards ({self.made} made, {self.rated} rated anew, {kept} kept)"
            f"{bad if self.failed else ''}"
        )


def run(
    settings: Settings, source: Source, how: Aggregate = Aggregate.mean, *, dry_run: bool = False
) -> Summary | None:
    """Command `import`: read a source and make data/scored hold its images and ratings.

    Args:
        settings: What params.yaml says.
        source: The source, with the options of the command.
        how: What becomes of several ratings of an image.
        dry_run: Show what was recognised and the first rows, and write nothing.

    Returns:
        What was made, kept and left out; None of a dry run.

    Raises:
        InputError: as `import_ratings`; or the source cannot be read.
    """
    from tgo.pipeline.generators import load_generator
    from tgo.pipeline.runtime import prepare

    check_new_columns("--keep", source.keep)
    if not dry_run:
        origin.require(layout.SCORED, "imported")
    found = ratings.read(source, how)
    for note in found.notes:
        log.warning("%s", note)
    log.info("%s", found.summary)
    _tell_agreement(found)
    if dry_run:
        for image in found.images[:SHOWN]:
            log.info("  %s", describe(image, found.counted))
        return None
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
    log.info("%s: %s", layout.SCORED, summary)
    if len(summary.failures) > 1:
        for reason, count in Counter(summary.failures).most_common(SHOWN):
            log.warning("%s images: %s", count, reason)
    return summary


def _tell_agreement(found: Ratings) -> None:
    """How far raters agree, and who does not."""
    if found.agreement is None:
        return
    alpha = found.agreement.alpha
    log.info(
        "%s raters; %s",
        found.agreement.raters,
        "no image has ratings of two" if alpha is None else f"Krippendorff's alpha {alpha:.2f}",
    )
    for rater, correlation in found.agreement.random.items():
        log.warning(
            "rater %s answers as if at random: rank correlation %.2f with the others; look at the "
            "answers, and leave them out if so",
            rater,
            correlation,
        )


def describe(image: RatedImage, counted: str = "ratings") -> str:
    """A rated picture in one line."""
    error = "" if image.error is None else f" +- {image.error:.2g}"
    times = f"{image.n_ratings} {counted}"
    return f"{image.id}: {image.rating:g}{error} ({times}), {image.prompt!r:.80}"


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
    """Make the scored shards of rated pictures in `folder`, doing only what is not done yet.

    A picture that cannot be read gets a row with status and error.

    Args:
        family: The generator, which encodes pictures and prompts.
        found: The rated pictures.
        folder: Where the shards go; its lock is held meanwhile.
        embeddings_folder: Where the prompt embeddings go.
        batch_size: Pictures encoded at once.
        rows_per_shard: What a kill can cost at most.
        threads: Pictures read at once.

    Returns:
        How many shards were made, rated anew or kept, and the failed rows by reason.

    Raises:
        InputError: someone else holds the folder, it holds generated images, no picture at all
            could be read, or the disk is full (finished shards stay).
    """
    with hold(folder):
        origin.require(folder, "imported")
        job = Job(family, found, batch_size, threads)
        planned = plan(job, found.images, folder, embeddings_folder, rows_per_shard)
        if not job.readable:
            raise _nothing_readable(found)
        shard_plan.reconcile(planned, folder)
        kept = _inspect(job, planned, folder)
        current = {shard.path.name for shard, right in kept.items() if right}
        manifest.restrict(folder, current)
        with tqdm(total=len(found.images), unit="image", desc=str(folder)) as bar:
            for shard in planned:
                if shard not in kept:
                    job.make(shard)
                elif not kept[shard]:
                    job.update_ratings(shard)
                bar.update(len(shard.rows))
        manifest.complete(folder)
        failures, first = _failures(planned)
        if sum(failures.values()) == len(found.images):
            _remove(planned, folder)
            raise InputError(
                f"{found.name}: none of its {len(found.images)} pictures could be used (the first: "
                f"{first}); nothing was imported"
            )
    made = len(planned) - len(kept)
    rated = list(kept.values()).count(False)
    return Summary(len(planned), made, rated, len(found.images), failures, first)


def plan(
    job: Job,
    images: Sequence[RatedImage],
    folder: Path,
    embeddings_folder: Path,
    rows_per_shard: int,
) -> list[RatedShard]:
    """The shards of rated pictures with their fingerprints, size after size; reads each picture."""
    seen = {image: job.look(image) for image in images}
    parts = [
        (size, part)
        for size in job.sizes
        for part in split([image for image in images if seen[image].size == size], rows_per_shard)
    ]
    paths = [folder / shards.shard_name(index, len(parts)) for index in range(len(parts))]
    return [
        RatedShard(
            path,
            embeddings.path_for(embeddings_folder, path),
            part,
            job.images_part({image: seen[image].digest for image in part}, size),
            size,
        )
        for path, (size, part) in zip(paths, parts, strict=True)
    ]


def split(images: Sequence[RatedImage], rows_per_shard: int) -> list[list[RatedImage]]:
    """Parts of at most `rows_per_shard` rows; a prompt crosses them only if it has more."""
    parts: list[list[RatedImage]] = []
    for start, end in _runs(images):
        while start < end:
            room = rows_per_shard - len(parts[-1]) if parts else 0
            if room == 0 or (parts[-1] and end - start > room):
                parts.append([])
                continue
            parts[-1] += images[start : min(end, start + room)]
            start += room
    return parts


def _runs(images: Sequence[RatedImage]) -> list[tuple[int, int]]:
    """Where the pictures of each prompt begin and end."""
    starts = [n for n in range(len(images)) if n == 0 or images[n].prompt != images[n - 1].prompt]
    return list(zip(starts, [*starts[1:], len(images)], strict=True))


def _inspect(job: Job, planned: Sequence[RatedShard], folder: Path) -> dict[RatedShard, bool]:
    """Of every shard whose pictures may stay, whether its ratings are right, too."""
    entries = manifest.read(folder)
    kept: dict[RatedShard, bool] = {}
    for shard in planned:
        if shard.path.exists():
            try:
                kept[shard] = _ratings_are_right(job, shard, entries.get(shard.path.name))
            except DamagedError as error:
                shard_plan.set_damaged_aside(shard.path, error)
    return kept


def _ratings_are_right(job: Job, shard: RatedShard, entry: Entry | None) -> bool:
    """DamagedError with the reason if not even the pictures are."""
    metadata = shard_plan.read_own_metadata(shard.path)
    shard_plan.check_bytes(shard.path, entry)
    if not embeddings.is_intact(shard.embeddings, metadata["tgo.embeddings"]["sha256"]):
        raise DamagedError(f"{shard.embeddings}: is missing or damaged; its shard is made anew")
    return bool(metadata["tgo.fingerprint"]["rewards"] == job.rewards_part(shard))


def _failures(planned: Sequence[RatedShard]) -> tuple[dict[str, int], str]:
    """How many rows failed for each reason, and the first one with its id."""
    reasons: Counter[str] = Counter()
    first = ""
    for shard in planned:
        for row in shards.read_shard(shard.path, ["id", "error"]).to_pylist():
            if row["error"]:
                first = first or f"{row['id']}: {row['error']}"
                reasons[row["error"]] += 1
    return dict(reasons), first


def _nothing_readable(found: Ratings) -> InputError:
    """Why the first picture of a source cannot be read, where none can."""
    image = found.images[0]
    reason = "it is empty"
    try:
        found.pictures.read(image.location)
    except OSError as error:
        reason = error.strerror or str(error)
    return InputError(
        f"{found.name}: none of its {len(found.images)} pictures can be read (the first: "
        f"{image.id}: {reason}); nothing was changed. --images names the folder they lie in"
    )


def _remove(planned: Sequence[RatedShard], folder: Path) -> None:
    """Remove shards that were just made and hold no picture."""
    for shard in planned:
        shard.path.unlink()
        shard.embeddings.unlink(missing_ok=True)
    manifest.restrict(folder, ())
