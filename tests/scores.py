"""Scored shards without models: what stage two reads, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline import shards


def write_scored(
    folder: Path, scores: np.ndarray, *, per_prompt: int = 2, status: list[str] | None = None
) -> Path:
    """Scored shards of at most six rows that hold what stage two reads."""
    rows = np.arange(len(scores))
    states = status or ["ok"] * len(scores)
    facts = {"clip": {"unit": "cosine", "version": "v", "checkpoint_sha256": "0" * 64}}
    parts = np.array_split(rows, max(-(-len(rows) // 6), 1))
    for index, part in enumerate(parts):
        table = pa.table(
            {
                "id": [f"r{row}" for row in part],
                "prompt_id": [f"p{row // per_prompt}" for row in part],
                "domain": ["all"] * len(part),
                "status": [states[row] for row in part],
                "clip": pa.array(
                    [float(scores[row]) if states[row] == "ok" else None for row in part],
                    pa.float32(),
                ),
            }
        ).replace_schema_metadata({"tgo.rewards": json.dumps(facts)})
        shards.write_shard(folder / shards.shard_name(index, len(parts)), table)
    return folder
