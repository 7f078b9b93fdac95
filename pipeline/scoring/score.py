"""Stage one: prompts to shards of images, latents and scores.

The unit of work is one numbered shard whose finished name is its commit. What is there and still
right is kept, what lacks only scores is completed from its stored images, the rest is made; so a
killed run loses at most the shard in flight, and nothing stale survives a change. An engine makes
the shards: this process (or several, a share each), or Ray. The bytes are the same.
"""

from __future__ import annotations

import logging

from tgo.pipeline import layout
from tgo.pipeline.cards import dataset_card
from tgo.pipeline.config.settings import Settings
from tgo.pipeline.errors import InputError
from tgo.pipeline.scoring import local_engine, worker_share
from tgo.pipeline.storage import locks, origin, shards

log = logging.getLogger(__name__)


def run(settings: Settings) -> None:
    """Stage `score`: the first prompts of the train list into data/scored.

    Args:
        settings: the checked settings.

    Raises:
        InputError: as `local_engine.score_prompts`, or data/scored holds imported ratings.
    """
    if settings.imported:
        origin.require_ratings(layout.SCORED)
        if tables := settings.score.tables:
            raise InputError(
                f"score.tables.{next(iter(tables))}: scores join generated images, and "
                f"{layout.SCORED} holds imported ones; write them into a column of the imported "
                "table and name it with `tgo import --rating-column`"
            )
        log.info(
            "%s: imported ratings, which label.reward names; nothing to generate", layout.SCORED
        )
        return
    share = worker_share.from_environment()
    origin.require(layout.SCORED, "generated")
    if settings.engine == "ray":
        from tgo.pipeline.scoring import ray_engine

        summary = ray_engine.run(settings, share)
    else:
        summary = local_engine.make_shards(local_engine.plan_training_images(settings), share)
    if shards.is_whole(layout.SCORED):  # true for the last one of several workers
        with locks.waiting(layout.SCORED.resolve().with_name("scored.card")):
            dataset_card.write(layout.SCORED)
    who = "" if share.is_all else f"{share}: "
    log.info("%s: %s%s", layout.SCORED, who, summary)
