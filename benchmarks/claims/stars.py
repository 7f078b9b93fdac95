"""Stars of simulated raters as feedback, and how well each way of joining them ranks images.

    python -m benchmarks.claims.stars data/scored     correlation with the raters' true liking

Twenty people have the taste of PickScore's raters (data/world/raters.py), each a little their own,
and differ in strictness and in how much of the scale they use; four of them answer at random. Each
gives 300 of the images 1 to 5 stars, so that of 2,048 images most get two to four ratings.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import spearmanr

from tgo.data.world import truth
from tgo.data.world.raters import MERITS, POPULATIONS
from tgo.pipeline.config.label_settings import RATING, RATING_ERROR
from tgo.pipeline.sources import raters
from tgo.pipeline.sources.aggregates import Aggregate
from tgo.pipeline.sources.rating_rows import Rating
from tgo.pipeline.storage import shards
from tgo.pipeline.storage.atomic import canonical

PEOPLE, EACH, CARELESS = 20, 300, 4
TASTE = POPULATIONS["pickscore"]
Array = NDArray[np.float32]


def read_merits(scored: Path) -> tuple[list[str], list[str], Array]:
    """Ids, prompts and merits float32 [N, 7] of the images of a folder, read from their pixels."""
    ids, prompts, merits = [], [], []
    for path in shards.shard_paths(scored):
        rows = shards.read_shard(path, ["id", "prompt", "image"]).to_pylist()
        pixels = [np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))) for row in rows]
        found = truth.judge(np.stack(pixels), [row["prompt"] for row in rows])
        ids += [row["id"] for row in rows]
        prompts += [row["prompt"] for row in rows]
        merits += [each.merits for each in found]
    return ids, prompts, np.stack(merits)


def rate(
    ids: Sequence[str], prompts: Sequence[str], merits: Array, seed: int, careless: int = CARELESS
) -> list[Rating]:
    """Ratings of all raters; the first `careless` of them answer at random."""
    rng = np.random.default_rng(seed)
    liking = TASTE.utility(merits)
    found = []
    for person in range(PEOPLE):
        deviation = np.exp(rng.normal(0, TASTE.spread, len(MERITS)))
        own = {m: TASTE.weights.get(m, 0.0) * d for m, d in zip(MERITS, deviation, strict=True)}
        felt = (replace(TASTE, weights=own).utility(merits) - liking.mean()) / liking.std()
        strict, stretch = rng.normal(0, 0.8), rng.uniform(0.6, 1.4)
        for image in rng.choice(len(ids), min(EACH, len(ids)), replace=False):
            stars = round(3 + strict + stretch * felt[image] + rng.normal(0, 0.5))
            value = rng.integers(1, 6) if person < careless else np.clip(stars, 1, 5)
            found.append(
                Rating(ids[image], prompts[image], float(value), Path(), rater=f"rater {person}")
            )
    return found


def write(scored: Path, how: str, seed: int, to: Path) -> Path:
    """Scored shards with the joined stars as `rating`; images without a rating are failed rows.

    Args:
        scored: the shards whose images are rated.
        how: a name of `Aggregate`.
        seed: of the raters.
        to: the new folder.

    Returns:
        `to`.
    """
    ids, prompts, merits = read_merits(scored)
    table, value, error = raters.aggregate(rate(ids, prompts, merits, seed), Aggregate(how))
    rated = {key: (value[n], error[n]) for n, (_, key) in enumerate(table.items)}
    facts = {"unit": "stars", "version": "simulated", "checkpoint_sha256": "0" * 64}
    for path in shards.shard_paths(scored):
        rows = shards.read_shard(path)
        pairs = [rated.get(key) for key in rows["id"].to_pylist()]
        columns = {name: rows[name] for name in shards.FIXED_COLUMNS}
        columns["status"] = pa.array(["ok" if pair else "failed" for pair in pairs])
        for place, name in enumerate((RATING, RATING_ERROR)):
            columns[name] = pa.array([pair and pair[place] for pair in pairs], pa.float32())
        own = rows.schema.metadata | {b"tgo.rewards": canonical({RATING: facts}).encode()}
        shards.write_shard(to / path.name, pa.table(columns).replace_schema_metadata(own))
    return to


def ranks(scored: Path, seeds: int = 20) -> None:
    """Print Spearman's correlation of joined stars with the true liking, over groups of raters."""
    ids, prompts, merits = read_merits(scored)
    liking = dict(zip(ids, TASTE.utility(merits), strict=True))
    print(f"{len(ids)} images, {PEOPLE} raters of {EACH} images each, {seeds} seeds: mean, lowest")
    for careless in (0, CARELESS):
        for how in (Aggregate.mean, Aggregate.standardised, Aggregate.dawid_skene):
            found = []
            for seed in range(seeds):
                given = rate(ids, prompts, merits, seed, careless)
                table, value, _ = raters.aggregate(given, how)
                true = [liking[key] for _, key in table.items]
                found.append(float(spearmanr(value, true).statistic))
            print(f"{careless} careless, {how:12}: {np.mean(found):.3f}, {min(found):.3f}")


if __name__ == "__main__":
    ranks(Path(sys.argv[1]))
