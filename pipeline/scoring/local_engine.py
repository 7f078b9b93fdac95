"""Makes the shards of a run in this process: all of them, or one worker's share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tqdm import tqdm

from tgo.pipeline import layout
from tgo.pipeline.config.settings import Settings
from tgo.pipeline.generators.base import Family
from tgo.pipeline.scoring import sampling, shard_plan
from tgo.pipeline.scoring.score_tables import ScoreTables
from tgo.pipeline.scoring.shard_builder import Job, ShardBuilder, ShardResult
from tgo.pipeline.scoring.shard_plan import PlannedShard, ShardState
from tgo.pipeline.scoring.worker_share import ALL, Share
from tgo.pipeline.scoring.worker_threads import open_workers
from tgo.pipeline.sources import prompts
from tgo.pipeline.sources.prompts import Prompt
from tgo.pipeline.storage import fingerprint, locks, manifest
from tgo.rewards.panel import Panel


@dataclass(frozen=True)
class Summary:
    """How many shards were made, completed or kept, and the images in them."""

    shards: int
    made: int
    completed: int
    images: int

    def __str__(self) -> str:
        kept = self.shards - self.made - self.completed
        return (
            f"{self.images} images in {self.shards} shards "
            f"({self.made} made, {self.completed} completed, {kept} kept)"
        )


@dataclass(frozen=True)
class Run:
    """A folder, the shards it should hold, and what makes them."""

    job: Job
    planned: Sequence[PlannedShard]
    folder: Path

    def count_images(self, some: Sequence[PlannedShard]) -> int:
        """How many images some of the shards hold."""
        return sum(len(shard.prompts) for shard in some) * self.job.images_per_prompt


def plan_training_images(settings: Settings) -> Run:
    """Load the models and plan data/scored."""
    skip = settings.score.skip
    chosen = prompts.read(settings.prompts.train, skip + settings.score.prompts)[skip:]
    family, panel = load_models(settings)
    score = settings.score
    job = Job(
        family,
        panel,
        settings.seed,
        score.images_per_prompt,
        score.batch_size,
        settings.generator.compile,
        ScoreTables(score.tables),
    )
    return plan_run(job, chosen, layout.SCORED, layout.EMBEDDINGS, score.rows_per_shard)


def load_models(settings: Settings, model: Path | None = None) -> tuple[Family, Panel]:
    """The generator (or another `model` of its family) and the reward models, on the device."""
    from tgo.pipeline.runtime import prepare
    from tgo.pipeline.scoring.load_models import load_family, load_panel

    device = prepare(settings)
    return load_family(settings, device, model), load_panel(settings, device)


def score_prompts(
    family: Family,
    panel: Panel,
    chosen: Sequence[Prompt],
    folder: Path,
    *,
    embeddings_folder: Path,
    seed: int,
    images_per_prompt: int,
    batch_size: int,
    rows_per_shard: int,
    compiled: bool = False,
    share: Share = ALL,
) -> Summary:
    """Make the scored shards of `chosen` in `folder`, doing only what is not done yet.

    Args:
        family: The generator.
        panel: The reward models.
        chosen: The prompts, in the order of the rows.
        folder: Where the shards go; its lock is held meanwhile.
        embeddings_folder: Where the prompt embeddings go.
        seed: Of the run; every image's own seed follows from it.
        images_per_prompt: Rows a prompt.
        batch_size: Images sampled and scored at once.
        rows_per_shard: What a kill can cost at most; prompts never cross shards.
        compiled: Whether the family's network is.
        share: The part that this process makes.

    Returns:
        How many shards were made, completed or kept, and the images in them.

    Raises:
        InputError: someone else holds the folder, the disk is full or cannot be read (finished
            shards stay), or a reward model gives NaN or an infinity.
    """
    job = Job(family, panel, seed, images_per_prompt, batch_size, compiled)
    return make_shards(plan_run(job, chosen, folder, embeddings_folder, rows_per_shard), share)


def plan_run(
    job: Job, chosen: Sequence[Prompt], folder: Path, embeddings_folder: Path, rows_per_shard: int
) -> Run:
    """The shards that `folder` should hold, with their fingerprints."""
    images = fingerprint.images_part(
        job.family,
        seed=job.seed,
        images_per_prompt=job.images_per_prompt,
        batch_size=job.batch_size,
        compiled=job.compiled,
    )
    per_shard = rows_per_shard // job.images_per_prompt
    rewards = fingerprint.reward_parts(job.panel) | job.tables.describe()
    if job.tables.names:
        rows = sampling.rows_of(chosen, seed=job.seed, images_per_prompt=job.images_per_prompt)
        job.tables.check_ids(row.id for row in rows)
    planned = shard_plan.plan_shards(
        folder, embeddings_folder, chosen, per_shard, images, rewards, job.family.latent_shapes
    )
    return Run(job, planned, folder)


def make_shards(run: Run, share: Share = ALL) -> Summary:
    """Make or complete those of a share's shards that need it."""
    mine = run.planned[share.rank :: share.count]
    with _locked(run, mine, share):
        states = inspect_shards(run.folder, mine)
        results = _build(run, states, share)
        add_to_manifest(run.folder, [shard.path for shard in mine], results)
    return summarise(len(mine), results.values(), run.count_images(mine))


def inspect_shards(
    folder: Path, mine: Sequence[PlannedShard]
) -> dict[PlannedShard, ShardState | None]:
    """What is there of some shards; those that will be written again leave the manifest."""
    entries = manifest.read(folder)
    states = {
        shard: shard_plan.inspect_shard(shard, entries.get(shard.path.name)) for shard in mine
    }
    incomplete = [shard.path.name for shard, state in states.items() if not _is_complete(state)]
    manifest.forget(folder, incomplete)
    return states


def add_to_manifest(
    folder: Path, paths: Sequence[Path], results: Mapping[str, ShardResult]
) -> None:
    """List some shards in the manifest, given the results by file name."""
    entries = {name: result.entry for name, result in results.items() if result.entry}
    manifest.complete(folder, paths, entries)


def summarise(count: int, results: Collection[ShardResult], images: int) -> Summary:
    """Count results; a shard that was kept needs none."""
    ways = Counter(result.how for result in results)
    return Summary(count, ways["made"], ways["completed"], images)


@contextmanager
def _locked(run: Run, mine: Sequence[PlannedShard], share: Share) -> Iterator[None]:
    """Hold the whole folder, or beside other workers the shards of one's share."""
    reconcile = partial(shard_plan.reconcile, run.planned, run.folder)
    if share.is_all:
        with locks.hold(run.folder):
            reconcile()
            yield
    else:
        numbers = [shard.number for shard in mine]
        with locks.join(run.folder, reconcile), locks.claim(run.folder, numbers):
            yield


def _build(
    run: Run, states: Mapping[PlannedShard, ShardState | None], share: Share
) -> dict[str, ShardResult]:
    """Make shards one after the other; the results by file name."""
    todo = [shard for shard, state in states.items() if not _is_complete(state)]
    name = str(run.folder) if share.is_all else f"{run.folder}, {share}"
    with (
        tqdm(total=run.count_images(todo), unit="image", desc=name, disable=not todo) as bar,
        open_workers(run.job.device) as workers,
    ):
        builder = ShardBuilder(run.job, workers, bar.update)
        return {shard.path.name: builder.build(shard, states[shard]) for shard in todo}


def _is_complete(state: ShardState | None) -> bool:
    return state is not None and state.complete
