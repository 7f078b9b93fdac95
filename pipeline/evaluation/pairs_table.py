"""reports/pairs.parquet: every pair of the test sets with its scores and the judge's, a row each.

Columns ``set``, ``id``, ``prompt``, ``prompt_id``, ``domain``, ``seed``, and ``base.NAME`` and
``tuned.NAME`` of every score. The file carries which two models it compares, so that it is never
shown beside figures or pictures of another one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tgo.pipeline.errors import InputError
from tgo.pipeline.evaluation.paired_images import Pairs
from tgo.pipeline.storage.atomic import canonical, replacing

_KEY = b"tgo.evaluation"
_TEXTS = {"id": "ids", "prompt": "prompts", "prompt_id": "prompt_ids", "domain": "domains"}


def write(path: Path, sets: Mapping[str, Pairs], facts: Mapping[str, Any]) -> None:
    """Write the pairs of all sets; ``facts`` say which models they compare, and how."""
    tables = [_table(name, pairs) for name, pairs in sets.items()]
    table = pa.concat_tables(tables).replace_schema_metadata({_KEY: canonical(facts)})
    with replacing(path) as file:
        pq.write_table(table, file, compression="zstd", write_page_checksum=True)


def read(path: Path | BinaryIO, name: str | None = None) -> tuple[dict[str, Any], dict[str, Pairs]]:
    """Read back what ``write`` was given.

    Args:
        path: the file, or its content.
        name: what errors call it; left out, its path.

    Returns:
        The facts of the evaluation, and the pairs by prompt set.

    Raises:
        InputError: the file is missing, damaged, or no such table.
    """
    told = name or str(path)
    try:
        table = pq.read_table(path, page_checksum_verification=True)
        facts = json.loads((table.schema.metadata or {})[_KEY])
        return facts, _by_set(table, facts["sets"])
    except FileNotFoundError:
        raise InputError(f"{told}: is missing; run `tgo evaluate` first") from None
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"{told}: is damaged ({reason}); run `tgo evaluate` again") from None


def _table(name: str, pairs: Pairs) -> pa.Table:
    columns: dict[str, Any] = {"set": [name] * len(pairs)}
    columns |= {column: getattr(pairs, field) for column, field in _TEXTS.items()}
    columns["seed"] = pa.array(pairs.seeds, pa.int64())
    for side, scores in (("base", pairs.base), ("tuned", pairs.tuned)):
        columns |= {f"{side}.{score}": values for score, values in scores.items()}
    return pa.table(columns)


def _by_set(table: pa.Table, counts: Mapping[str, Any]) -> dict[str, Pairs]:
    of_set = np.array(table["set"].to_pylist(), dtype=object)
    return {name: _pairs(table.filter(of_set == name), counts[name]) for name in counts}


def _pairs(table: pa.Table, counts: Mapping[str, Any]) -> Pairs:
    def scores(side: str) -> dict[str, np.ndarray]:
        prefix = f"{side}."
        return {
            name.removeprefix(prefix): table[name].to_numpy().astype(float)
            for name in table.column_names
            if name.startswith(prefix)
        }

    texts = {field: table[column].to_pylist() for column, field in _TEXTS.items()}
    return Pairs(
        **texts,
        seeds=table["seed"].to_pylist(),
        base=scores("base"),
        tuned=scores("tuned"),
        excluded=counts["excluded"],
    )
