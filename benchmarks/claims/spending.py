"""Fewer images, spent where they tell more; and shards of several rounds as one folder.

The rules choose from a folder that has several images of every prompt, as if images were made one
after the other: a prompt's next image is chosen only after those before it, and from the scores of
chosen images alone.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tgo.pipeline.storage import shards
from tgo.pipeline.storage.embeddings import path_for

Rule = Literal["one", "two", "rare", "uncertain"]


def choose(scores: NDArray[np.float32], rule: Rule, budget: int) -> NDArray[np.bool_]:
    """Which images a rule spends its budget on.

    Args:
        scores: [P, R] of each prompt's images, in the order in which they are made.
        rule: ``one`` image of each of the first `budget` prompts; ``two`` of half as many; or
            one of half as many, and the other half of the budget where it is needed: ``rare``
            goes on with prompts whose first image lies below the median of the first images,
            ``uncertain`` with those whose first image lies nearest to it.
        budget: images to choose.

    Returns:
        [P, R], true where an image is chosen.
    """
    prompts, images = scores.shape
    chosen = np.zeros((prompts, images), np.bool_)
    if rule == "one":
        chosen[:budget, 0] = True
        return chosen
    half = budget // 2
    chosen[:half, 0] = True
    if rule == "two":
        chosen[:half, 1] = True
        return chosen
    first = scores[:half, 0]
    above = first - np.median(first)
    if rule == "rare":
        order, more = np.flatnonzero(above < 0), 2
    else:
        order, more = np.argsort(np.abs(above), kind="stable"), images - 1
    chosen[order[: half // more], 1 : 1 + more] = True
    return chosen


def write(scored: Path, rule: Rule, budget: int, to: Path, reward: str = "pickscore") -> Path:
    """Scored shards in which the images that a rule did not choose are failed rows.

    Args:
        scored: shards with the same number of images of every prompt, a prompt's side by side.
        rule, budget: see `choose`.
        to: the new folder.
        reward: the column that the rule looks at.

    Returns:
        `to`.
    """
    paths = shards.shard_paths(scored)
    tables = [shards.read_shard(path) for path in paths]
    images = 1 + max(int(table["replicate"].to_numpy().max()) for table in tables)
    scores = np.concatenate([table[reward].to_numpy() for table in tables]).reshape(-1, images)
    chosen = choose(scores, rule, budget).ravel()
    start = 0
    for path, table in zip(paths, tables, strict=True):
        here = chosen[start : start + len(table)]
        start += len(table)
        place = table.schema.get_field_index("status")
        status = pa.array(np.where(here, "ok", "failed").tolist())
        shards.write_shard(to / path.name, table.set_column(place, "status", status))
    return to


def join(folders: Sequence[Path], to: Path) -> Path:
    """The shards and embeddings of several folders as those of one, by links.

    Args:
        folders: each with `scored` and `embeddings`.
        to: the new folder, with both; one that is there is replaced.

    Returns:
        `to`.
    """
    shutil.rmtree(to, ignore_errors=True)
    found = [(folder, path) for folder in folders for path in shards.shard_paths(folder / "scored")]
    for part in ("scored", "embeddings"):
        (to / part).mkdir(parents=True)
    for number, (folder, path) in enumerate(found):
        own = to / "scored" / shards.shard_name(number, len(found))
        os.link(path, own)
        os.link(path_for(folder / "embeddings", path), path_for(to / "embeddings", own))
    return to
