"""Stage one: prompts to shards of images, latents and scores.

The unit of work is one numbered shard whose finished name is its commit. What is there and
still right is kept, what lacks only scores is completed from its stored images, the rest is
made; so a killed run loses at most the shard in flight, and nothing stale survives a change.
One process makes all shards, or several each a share of them: the bytes are the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tgo.pipeline import layout
from tgo.pipeline.cards import dataset_card
from tgo.pipeline.config.settings import Settings
from tgo.pipeline.generators.base import Family
from tgo.pipeline.scoring import shard_plan, worker_share
from tgo.pipeline.scoring.shard_builder import Done, Job, Maker
from tgo.pipeline.scoring.shard_plan import Found, Planned
from tgo.pipeline.scoring.worker_share import ALL, Share
from tgo.pipeline.scoring.worker_threads import open_lanes
from tgo.pipeline.sources import prompts
from tgo.pipeline.sources.prompts import Prompt
from tgo.pipeline.storage import fingerprint, locks, manifest, origin, shards
from tgo.rewards.panel import Panel
from tqdm import tqdm


@dataclass(frozen=True)
class Summary:
    """What a run did."""

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
    planned: Sequence[Planned]
    folder: Path

    def images(self, some: Sequence[Planned]) -> int:
        return sum(len(shard.prompts) for shard in some) * self.job.images_per_prompt


def run(settings: Settings) -> None:
    """Stage `score`: the first prompts of the train list into data/scored."""
    if settings.imported:
        origin.require_ratings(layout.SCORED)
        print(f"{layout.SCORED}: imported ratings, which label.reward names; nothing to generate")
        return
    share = worker_share.from_environment()
    origin.require(layout.SCORED, "generated")
    if settings.engine == "ray":
        from tgo.pipeline.scoring import ray_engine

        summary = ray_engine.run(settings, share)
    else:
        summary = bring_up_to_date(plan_run(settings), share)
    if shards.is_whole(layout.SCORED):  # the last of several workers finds it so
        with locks.waiting(layout.SCORED.with_name("scored.card")):
            dataset_card.write(layout.SCORED)
    who = "" if share.is_all else f"{share}: "
    print(f"{layout.SCORED}: {who}{summary}")


def plan_run(settings: Settings) -> Run:
    """Load the models and plan the training images, all of them."""
    chosen = prompts.read(settings.prompts.train, settings.score.prompts)
    family, panel = load_models(settings)
    score = settings.score
    job = Job(
        family,
        panel,
        settings.seed,
        score.images_per_prompt,
        score.batch_size,
        settings.generator.compile,
    )
    return plan(job, chosen, layout.SCORED, layout.EMBEDDINGS, score.rows_per_shard)


def load_models(settings: Settings, model: Path | None = None) -> tuple[Family, Panel]:
    """The generator (or another `model` of its family) and the reward models, on the device."""
    from tgo.pipeline.runtime import load_family, load_panel, prepare

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
    """Bring `folder` to hold the scored shards of `chosen`, doing only what is not yet done.

    Shards of `rows_per_shard` rows are the most a kill can cost; prompts never cross them.
    The folder is held meanwhile. Raises InputError when someone else holds it, the disk is
    full (finished shards stay) or a reward model gives NaN or an infinity.
    """
    job = Job(family, panel, seed, images_per_prompt, batch_size, compiled)
    return bring_up_to_date(plan(job, chosen, folder, embeddings_folder, rows_per_shard), share)


def plan(
    job: Job, chosen: Sequence[Prompt], folder: Path, embeddings_folder: Path, rows_per_shard: int
) -> Run:
    """What `folder` should hold."""
    images = fingerprint.images_part(
        job.family,
        seed=job.seed,
        images_per_prompt=job.images_per_prompt,
        batch_size=job.batch_size,
        compiled=job.compiled,
    )
    per_shard = rows_per_shard // job.images_per_prompt
    rewards = fingerprint.reward_parts(job.panel)
    planned = shard_plan.plan(folder, embeddings_folder, chosen, per_shard, images, rewards)
    return Run(job, planned, folder)


def bring_up_to_date(run: Run, share: Share = ALL) -> Summary:
    """Make what a share of the run's shards lacks, and only that."""
    mine = run.planned[share.rank :: share.count]
    with _entered(run, mine, share):
        found = survey(run.folder, mine)
        todo = [shard for shard in mine if not is_complete(shard, found)]
        done = _make(run, todo, found, share)
        enter(run.folder, [shard.path for shard in mine], done)
    return summarise(len(mine), done.values(), run.images(mine))


def enter(folder: Path, paths: Sequence[Path], done: Mapping[str, Done]) -> None:
    """Enter some shards into the manifest, given what was done by file name."""
    entries = {name: result.entry for name, result in done.items() if result.entry}
    manifest.complete(folder, paths, entries)


def summarise(count: int, done: Collection[Done], images: int) -> Summary:
    """Count what was done; what needed nothing is not among `done`."""
    ways = Counter(result.how for result in done)
    return Summary(count, ways["made"], ways["completed"], images)


def survey(folder: Path, mine: Sequence[Planned]) -> dict[Planned, Found]:
    """What may stay of some shards; the manifest forgets what must be written again."""
    known = manifest.read(folder)
    looked = {shard: shard_plan.inspect(shard, known.get(shard.path.name)) for shard in mine}
    found = {shard: state for shard, state in looked.items() if state}
    stale = [shard.path.name for shard in mine if not is_complete(shard, found)]
    manifest.forget(folder, stale)
    return found


def is_complete(shard: Planned, found: dict[Planned, Found]) -> bool:
    """Whether nothing is to be done."""
    return shard in found and found[shard].complete


@contextmanager
def _entered(run: Run, mine: Sequence[Planned], share: Share) -> Iterator[None]:
    """The right to write: the whole folder, or beside other workers the shards of one's share."""
    sweep = partial(shard_plan.sweep, run.planned, run.folder)
    if share.is_all:
        with locks.hold(run.folder):
            sweep()
            yield
    else:
        numbers = [shard.number for shard in mine]
        with locks.join(run.folder, sweep), locks.claim(run.folder, numbers):
            yield


def _make(
    run: Run, todo: Sequence[Planned], found: dict[Planned, Found], share: Share
) -> dict[str, Done]:
    """Bring shards up to date one after the other; what was done, by file name."""
    name = str(run.folder) if share.is_all else f"{run.folder}, {share}"
    with (
        tqdm(total=run.images(todo), unit="image", desc=name, disable=not todo) as bar,
        open_lanes(run.job.device) as lanes,
    ):
        maker = Maker(run.job, lanes, bar.update)
        return {shard.path.name: maker.bring(shard, found.get(shard)) for shard in todo}
