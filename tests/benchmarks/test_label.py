"""The benchmark of stage two runs by the rule of params.yaml, and the engines agree."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import label
from tgo.pipeline.config import settings
from tgo.pipeline.layout import PARAMS
from tgo.pipeline.storage import shards


def _threshold(engine: str, scored: Path, out: Path) -> float:
    steps: list[str] = []
    run: Callable[..., float] = label.ENGINES[engine]
    found = run(scored, out, 1, steps.append)
    assert steps[0] == "threshold"
    assert steps[-1] == "labels"
    assert shards.count_rows(sorted(out.glob("*.parquet"))) == 4000
    return found


@pytest.mark.parametrize("engine", ["ours", "duckdb", "polars"])
def test_engines_find_the_median(engine: str, tmp_path: Path) -> None:
    if engine != "ours":
        pytest.importorskip(engine)
    label.make(tmp_path / "scored", 4000)
    (path,) = (tmp_path / "scored").glob("*.parquet")
    rows = shards.read_shard(path, ["pickscore", "status"]).to_pylist()
    usable = sorted(row["pickscore"] for row in rows if row["status"] == "ok")
    found = _threshold(engine, tmp_path / "scored", tmp_path / "out")
    assert settings.load(PARAMS).label.percentile == 50.0
    assert found == pytest.approx(usable[(len(usable) - 1) // 2], abs=1e-6)
