"""Stage one on Ray: an actor for each GPU, or for each `threads` CPUs, makes whole shards.

Images never cross the object store: an actor generates, scores and writes its shard, and what
comes back is what the manifest says of it. The shard's name stays the only commit. Ray restarts
an actor that dies and repeats its shard; nothing is scheduled here.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tgo.pipeline import layout
from tgo.pipeline.config.settings import Settings
from tgo.pipeline.errors import InputError
from tgo.pipeline.generators.sizes import Size
from tgo.pipeline.scoring import local_engine, shard_plan
from tgo.pipeline.scoring.local_engine import Run, Summary
from tgo.pipeline.scoring.shard_builder import ShardBuilder, ShardResult
from tgo.pipeline.scoring.worker_share import Share
from tgo.pipeline.scoring.worker_threads import open_workers
from tgo.pipeline.sources import prompts
from tgo.pipeline.storage import locks
from tgo.rewards.errors import RewardError

RESTARTS = 3
"""Times an actor may die before the run ends: a machine that fails, not a shard that kills."""


class ShardActor:
    """Makes shards in a process of its own.

    The models are loaded by its first task, not by its construction: a task's errors come back.
    """

    def __init__(self, settings: Settings, root: str) -> None:
        self._settings, self._root = settings, root
        self._stack = ExitStack()

    def reconcile(self) -> None:
        """See `shard_plan.reconcile`; for one actor, before any other writes."""
        shard_plan.reconcile(self._run.planned, self._run.folder)

    def build(self, number: int) -> tuple[str, int, ShardResult]:
        """Make or complete one shard; its file name, its images, the result."""
        run = self._run
        shard = run.planned[number]
        with locks.claim(run.folder, [number]):
            states = local_engine.inspect_shards(run.folder, [shard])
            result = self._builder.build(shard, states[shard])
            return shard.path.name, run.count_images([shard]), result

    @cached_property
    def _run(self) -> Run:
        try:
            os.chdir(self._root)  # paths are relative to the repository
        except OSError:
            raise InputError(
                f"{self._root}: is not there on {socket.gethostname()}; put the repository on a "
                "disk that all nodes of the Ray cluster share"
            ) from None
        return local_engine.plan_training_images(self._settings)

    @cached_property
    def _builder(self) -> ShardBuilder:
        workers = self._stack.enter_context(open_workers(self._run.job.device))
        return ShardBuilder(self._run.job, workers, lambda rows: None)


def run(settings: Settings, share: Share) -> Summary:
    """Make data/scored on the cluster that RAY_ADDRESS names or that runs on this machine.

    Where there is none, one is started here.

    Args:
        settings: the checked settings.
        share: must be the whole: Ray hands out the shards itself.

    Returns:
        How many shards were made, completed or kept, and the images in them.

    Raises:
        InputError: as `local_engine.score_prompts`; Ray is not installed; the cluster has no room
            for one worker; or a worker died too often.
    """
    if not share.is_all:
        raise InputError(
            "params.yaml: engine = 'ray' hands out shards itself; start one `tgo score` without "
            "RANK, WORLD_SIZE or a SLURM array, or set engine to local"
        )
    ray = _import()
    shards = _count_shards(settings)
    images = settings.score.prompts * settings.score.images_per_prompt
    with locks.hold(layout.SCORED), _connected(ray), _one_line_errors(ray):
        pool, first = _actors(ray, settings, shards)
        ray.get(first.reconcile.remote())
        results: dict[str, ShardResult] = {}
        with tqdm(total=images, unit="image", desc=f"{layout.SCORED}, Ray") as bar:
            for name, made, result in pool.map_unordered(
                lambda actor, number: actor.build.remote(number), range(shards)
            ):
                results[name] = result
                bar.update(made)
        paths = [layout.SCORED / name for name in results]
        local_engine.add_to_manifest(layout.SCORED, paths, results)
    return local_engine.summarise(shards, results.values(), images)


def _actors(ray: Any, settings: Settings, shards: int) -> tuple[Any, Any]:
    """A pool of as many actors as the cluster has room for, and the first of them."""
    from ray.util import ActorPool

    have = ray.cluster_resources()
    gpus, cpus = int(have.get("GPU", 0)), int(have.get("CPU", 0))
    device = settings.device
    if device == "auto":
        device = "cuda" if gpus else "cpu"
    room = gpus if device == "cuda" else cpus // settings.threads
    if not room:
        raise InputError(
            f"params.yaml: engine = 'ray', device = {settings.device!r}, threads = "
            f"{settings.threads}: the cluster has {gpus} GPUs and {cpus} CPUs, too few for one "
            "worker; lower threads, set device to cpu, or start more nodes"
        )
    needs = {"num_gpus": 1, "num_cpus": 1} if device == "cuda" else {"num_cpus": settings.threads}
    kind = ray.remote(ShardActor).options(max_restarts=RESTARTS, max_task_retries=RESTARTS, **needs)
    pinned = settings.model_copy(update={"device": device})  # no node decides for itself
    actors = [kind.remote(pinned, str(Path.cwd())) for _ in range(min(room, shards))]
    return ActorPool(actors), actors[0]


def _count_shards(settings: Settings) -> int:
    rules = settings.score
    chosen = prompts.read(settings.prompts.train, rules.skip + rules.prompts)[rules.skip :]
    per_shard = rules.rows_per_shard // rules.images_per_prompt
    one = Size(1, 1)  # whichever the model makes
    return len(shard_plan.split(chosen, per_shard, settings.generator.sizes or [one]))


@contextmanager
def _connected(ray: Any) -> Iterator[None]:
    mine = not ray.is_initialized()
    if mine:
        ray.init(include_dashboard=False, logging_level="ERROR")
    try:
        yield
    finally:
        if mine:
            ray.shutdown()


@contextmanager
def _one_line_errors(ray: Any) -> Iterator[None]:
    """Raise what an actor raised as if it had been raised here."""
    try:
        yield
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, InputError | RewardError):
            raise error.cause from None
        raise
    except ray.exceptions.RayActorError as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"engine ray: a worker died {RESTARTS + 1} times ({reason}); "
            "look into Ray's logs (often too little memory) and run the same command again, "
            "finished shards stay"
        ) from error


def _import() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing goes out
    os.environ.setdefault("RAY_worker_niceness", "0")  # the actors are the run, not a side job
    try:
        import ray
    except ImportError:
        raise InputError(
            "params.yaml: engine = 'ray', but Ray is not installed; `pip install 'tgo[ray]'`, or "
            "set engine to local"
        ) from None
    return ray
