"""Scored shards without models: what stage two reads, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tests.settings import changed
from tgo.pipeline.config.settings import Label
from tgo.pipeline.storage import shards

RULE = changed({"label": {"reward": "clip"}}).label.model_dump()


def make_rule(**changes: object) -> Label:
    """The default label rule of the tests, on the clip score, with some keys changed."""
    return Label.model_validate(RULE | changes)


def write_scored(
    folder: Path,
    scores: np.ndarray | Mapping[str, np.ndarray],
    *,
    per_prompt: int = 2,
    status: Sequence[str] | None = None,
    rows_per_shard: int = 6,
    order: np.ndarray | None = None,
    units: Mapping[str, str] | None = None,
    **columns: Sequence[Any],
) -> Path:
    """Scored shards of a few rows that hold what stage two reads.

    `scores` are of `clip`, or of several reward models by name; `columns` replace or add columns;
    `order` is the order in which the rows are written.
    """
    rewards = dict(scores) if isinstance(scores, Mapping) else {"clip": scores}
    count = len(next(iter(rewards.values())))
    states = np.array(status or ["ok"] * count, object)
    rows: dict[str, Any] = {
        "id": [f"r{row}" for row in range(count)],
        "prompt_id": [f"p{row // per_prompt}" for row in range(count)],
        "domain": ["all"] * count,
        "status": states.tolist(),
        **columns,
    }
    for name, values in rewards.items():
        rows[name] = pa.array(values.astype(np.float32), mask=states != "ok", from_pandas=False)
    facts = {
        name: {
            "unit": (units or {}).get(name, "cosine"),
            "version": "v",
            "checkpoint_sha256": "0" * 64,
        }
        for name in rewards
    }
    table = pa.table(rows).replace_schema_metadata({"tgo.rewards": json.dumps(facts)})
    if order is not None:
        table = table.take(pa.array(order))
    parts = max(-(-count // rows_per_shard), 1)
    for index, part in enumerate(np.array_split(np.arange(count), parts)):
        piece = table.slice(int(part[0]) if len(part) else 0, len(part))
        shards.write_shard(folder / shards.shard_name(index, parts), piece)
    return folder
