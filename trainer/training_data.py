"""What a run trains on: labelled rows, the order they come in, what of the reference is cached.

With the learner this is all that decides a step (`trainer/fingerprint.py`).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from tgo.pipeline.errors import InputError
from tgo.trainer.balanced_stream import BalancedStream
from tgo.trainer.bucketed_stream import BucketedStream
from tgo.trainer.csft_prompts import prefixed_tables
from tgo.trainer.dataset import LabelledRows
from tgo.trainer.reference_cache import load_cache
from tgo.trainer.stream import WINDOW, Stream

if TYPE_CHECKING:
    from tgo.pipeline.config.train_settings import Train
    from tgo.pipeline.generators.base import Family
    from tgo.trainer.distributed import Ranks
    from tgo.trainer.objectives import Objective
    from tgo.trainer.paths import Paths

logger = logging.getLogger(__name__)
__all__ = ["condition_negatives", "load_cache", "load_rows", "make_stream"]


def load_rows(paths: Paths, objective: Objective) -> LabelledRows:
    """The rows that the objective trains on, with what it asks of each.

    Args:
        paths: where shards, labels and embeddings lie.
        objective: says which rows it trains on, and what it asks of each.

    Returns:
        The labelled rows, single or in pairs.

    Raises:
        InputError: shards, labels or embeddings are missing, damaged or do not belong together.
    """
    rows = LabelledRows(
        paths.scored,
        paths.labelled,
        paths.embeddings,
        rows=objective.rows,
        per_row_value=objective.per_row_value,
    )
    if objective.per_row_value is not None:
        rows.require_different_scores()
    return rows


def condition_negatives(
    rows: LabelledRows, paths: Paths, objective: Objective, family: Family, ranks: Ranks
) -> None:
    """Put the objective's phrase before the prompts of negatives, if it has one."""
    if objective.negative_prefix is None:
        return
    name = "conditions" if ranks.is_main else f"conditions-{ranks.rank}"
    folder = paths.checkpoints / name
    rows.condition_negatives(
        prefixed_tables(family, objective.negative_prefix, paths.scored, paths.embeddings, folder)
    )


def make_stream(
    rows: LabelledRows, train: Train, ranks: Ranks
) -> Stream | BalancedStream | BucketedStream:
    """This process's share of the batches that the settings ask for, each of images of one size.

    A size that cannot fill a batch is left out, with a warning.

    Args:
        rows: the rows to train on.
        train: the settings of the run.
        ranks: this process among those of the run.

    Returns:
        The stream of batches.

    Raises:
        InputError: there are too few rows for a batch of any size.
    """
    buckets = rows.by_shape()
    if len(buckets) == 1:
        return _stream(rows, train, ranks, WINDOW)
    streams, reasons = [], []
    for bucket in buckets:
        try:
            streams.append(_stream(bucket, train, ranks, max(1, WINDOW // len(buckets))))
        except InputError as error:
            reasons.append(f"images with latents of shape {bucket.latent_shape}: {error}")
    if not streams:
        raise InputError(reasons[0])
    for reason in reasons if ranks.is_main else ():
        logger.warning("train: left out: %s", reason)
    return BucketedStream(streams, seed=train.seed)


def _stream(rows: LabelledRows, train: Train, ranks: Ranks, window: int) -> Stream | BalancedStream:
    """Batches of rows of one shape; InputError where they fill none."""
    arguments: dict[str, Any] = {
        "seed": train.seed,
        "batch_size": train.batch_size,
        "workers": train.workers,
        "pin": ranks.device.type == "cuda",
        "window": window,
        "share": ranks.rows(train.batch_size),
    }
    if train.positives is None:
        return Stream(rows, **arguments)
    return BalancedStream(rows, positives=train.positives, **arguments)
