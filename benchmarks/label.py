"""How fast is stage two, beside DuckDB and Polars doing the same to the same files?

    python -m benchmarks.label --rows 1000000 10000000 100000000

Synthetic scored shards (five reward models, no images) are written once; then every engine, in a
process of its own and with the same number of threads, finds the median and standard deviation of
one score over the usable rows, and writes id, score, threshold, label and standardised weight of
every row as zstd Parquet. The files lie in the page cache for all of them. Ours also verifies
page checksums, writes them, and syncs every file. The diagnosis is timed apart: the others have
none. Needs the extra `bench` (DuckDB and Polars).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tgo.pipeline import layout
from tgo.pipeline.config import settings
from tgo.pipeline.labelling import label, labeller
from tgo.pipeline.labelling.diagnostics import diagnose
from tgo.pipeline.storage import shards

ROWS_PER_SHARD = 1_000_000
ROWS_PER_GROUP = 1 << 16
IMAGES = 4  # a prompt
FAILED = 0.01
SPREADS = {
    "pickscore": (21.0, 1.0),
    "hpsv2": (0.26, 0.03),
    "imagereward": (0.1, 1.0),
    "clip": (0.27, 0.03),
    "aesthetic": (5.4, 0.5),
}
DOMAINS = ("anime", "concept-art", "paintings", "photo")
_HEX = np.frombuffer(bytes.fromhex("".join(f"{b:02x}".encode().hex() for b in range(256))), "u1")


def make(folder: Path, rows: int) -> None:
    """Write scored shards of `rows` synthetic rows; those that are there are kept."""
    count = -(-rows // ROWS_PER_SHARD)
    for index in range(count):
        path = folder / shards.shard_name(index, count)
        if not path.exists():
            size = min(ROWS_PER_SHARD, rows - index * ROWS_PER_SHARD)
            _write_shard(path, synthetic(index, size))


def synthetic(index: int, rows: int) -> pa.Table:
    """One shard's columns: four images a prompt, a third of the variance between prompts."""
    generator = np.random.default_rng([index, 1])
    prompts = -(-rows // IMAGES)
    prompt = np.repeat(generator.integers(0, 2**63, prompts, np.int64), IMAGES)[:rows]
    replicate = np.tile(np.arange(IMAGES), prompts)[:rows]
    failed = generator.random(rows) < FAILED
    columns: dict[str, Any] = {
        "id": _ids(prompt, replicate),
        "prompt_id": _ids(prompt),
        "domain": pa.array(np.array(DOMAINS)[prompt % len(DOMAINS)]),
        "status": pa.array(np.where(failed, "failed", "ok")),
    }
    for name, (mean, spread) in SPREADS.items():
        own = np.repeat(generator.normal(0, spread * 0.58, prompts), IMAGES)[:rows]
        scores = (mean + own + generator.normal(0, spread * 0.82, rows)).astype(np.float32)
        columns[name] = pa.array(scores, mask=failed)
    models = {
        name: {"unit": "synthetic", "version": "synthetic", "checkpoint_sha256": "0" * 64}
        for name in SPREADS
    }
    return pa.table(columns).replace_schema_metadata({"tgo.rewards": json.dumps(models)})


def _ids(prompt: np.ndarray, replicate: np.ndarray | None = None) -> pa.Array:
    """Hexadecimal prompt ids, with `-000` and so on behind them if there is a replicate."""
    digits = _HEX.reshape(256, 2)[prompt.astype(">u8").view("u1").reshape(-1, 8)].reshape(-1, 16)
    if replicate is not None:
        tail = np.tile(np.frombuffer(b"-000", "u1"), (len(prompt), 1))
        tail[:, 3] += replicate.astype("u1")
        digits = np.hstack([digits, tail])
    length = digits.shape[1]
    offsets = np.arange(0, (len(prompt) + 1) * length, length, dtype=np.int32)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(digits))]
    return pa.Array.from_buffers(pa.string(), len(prompt), buffers)


def _write_shard(path: Path, table: pa.Table) -> None:
    """Write a shard as stage one does, without images and in larger row groups."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    pq.write_table(
        table,
        partial,
        row_group_size=ROWS_PER_GROUP,
        compression="zstd",
        use_dictionary=["prompt_id", "domain", "status"],
        write_page_checksum=True,
    )
    partial.rename(path)


def ours(scored: Path, out: Path, threads: int, lap: Callable[[str], None]) -> float:
    """Stage two itself by params.yaml's rule, without its plot and record."""
    rule = settings.load(layout.PARAMS).label
    made = labeller.fit(scored, rule, threads=threads)
    lap("threshold")
    found = diagnose(made, seed=0, threads=threads)
    lap("diagnosis")
    label.write_labels(made, found, out, threads=threads)
    lap("labels")
    return float(made.thresholds.overall[0])


def duckdb(scored: Path, out: Path, threads: int, lap: Callable[[str], None]) -> float:
    """The same in two SQL statements."""
    import duckdb

    out.mkdir(parents=True, exist_ok=True)
    connection = duckdb.connect(config={"threads": threads, "memory_limit": "8GB"})
    files = f"read_parquet('{scored}/*.parquet')"
    threshold, std = connection.execute(
        f"SELECT quantile_disc(pickscore, 0.5), stddev_pop(pickscore) FROM {files} "
        "WHERE status = 'ok'"
    ).fetchone() or (0.0, 1.0)
    lap("threshold")
    cut = f"{threshold!r}::FLOAT"
    connection.execute(
        f"COPY (SELECT id, pickscore AS score, {cut} AS threshold, "
        f"(CASE WHEN status <> 'ok' THEN -1 WHEN pickscore >= {cut} THEN 1 ELSE 0 END)::TINYINT "
        f"AS label, (CASE WHEN status <> 'ok' THEN 0 ELSE 1 + 5 * abs(pickscore::DOUBLE - {cut}) "
        f"/ {std!r} END)::FLOAT AS weight FROM {files}) TO '{out}/labels.parquet' "
        "(FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1)"
    )
    lap("labels")
    return float(threshold)


def polars(scored: Path, out: Path, threads: int, lap: Callable[[str], None]) -> float:
    """The same with lazy frames and the streaming engine."""
    import polars as pl

    out.mkdir(parents=True, exist_ok=True)
    frame = pl.scan_parquet(f"{scored}/*.parquet")
    usable, score = pl.col("status") == "ok", pl.col("pickscore")
    found = (
        frame.filter(usable)
        .select(
            score.quantile(0.5, "lower").alias("threshold"),
            score.cast(pl.Float64).std(ddof=0).alias("std"),
        )
        .collect(engine="streaming")
    )
    threshold, std = found.row(0)
    lap("threshold")
    cut = pl.lit(threshold, pl.Float32)
    weight = 1 + 5 * (score.cast(pl.Float64) - threshold).abs() / std
    frame.select(
        "id",
        score.alias("score"),
        cut.alias("threshold"),
        pl.when(~usable).then(-1).otherwise(score >= cut).cast(pl.Int8).alias("label"),
        pl.when(usable).then(weight).otherwise(0).cast(pl.Float32).alias("weight"),
    ).sink_parquet(out / "labels.parquet", compression="zstd", compression_level=1)
    lap("labels")
    return float(threshold)


ENGINES: dict[str, Callable[[Path, Path, int, Callable[[str], None]], float]] = {
    "ours": ours,
    "duckdb": duckdb,
    "polars": polars,
}


def run_child(engine: str, scored: Path, out: Path, threads: int) -> None:
    """Time one engine in this process and print what it took as JSON."""
    if engine != "ours":
        __import__(engine)
    seconds: dict[str, float] = {}
    cpu: dict[str, float] = {}
    began, began_cpu = time.perf_counter(), time.process_time()

    def lap(name: str) -> None:
        seconds[name] = time.perf_counter() - began - sum(seconds.values())
        cpu[name] = time.process_time() - began_cpu - sum(cpu.values())

    threshold = ENGINES[engine](scored, out, threads, lap)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        json.dumps(
            {"seconds": seconds, "cpu_seconds": cpu, "peak_gib": peak, "threshold": threshold}
        )
    )


def measure(engine: str, scored: Path, out: Path, threads: int) -> dict[str, Any]:
    """One engine in a process of its own, with `threads` threads."""
    shutil.rmtree(out, ignore_errors=True)
    limits = ("POLARS_MAX_THREADS", "OMP_NUM_THREADS", "ARROW_NUM_THREADS")
    command = [sys.executable, "-m", "benchmarks.label", "--child", engine]
    done = subprocess.run(
        [*command, str(scored), str(out), str(threads)],
        env={**os.environ, **dict.fromkeys(limits, str(threads))},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    found["written_gib"] = sum(path.stat().st_size for path in out.iterdir()) / 2**30
    shutil.rmtree(out)
    return found


def warm(scored: Path) -> None:
    """Read every file once, so that all engines find them in the page cache."""
    for path in shards.shard_paths(scored):
        with path.open("rb") as file:
            while file.read(1 << 24):
                pass


def main() -> None:
    """The command line; see the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--folder", type=Path, default=Path("data/benchmark"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=ENGINES)
    parser.add_argument("--repeat", type=int, default=1, help="the fastest of so many runs counts")
    parser.add_argument("--json", type=Path, help="where to write the figures besides")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        engine, scored, out, threads = asked.child
        run_child(engine, Path(scored), Path(out), int(threads))
        return
    results: dict[str, Any] = {}
    for rows in asked.rows:
        scored = asked.folder / f"scored-{rows}"
        make(scored, rows)
        warm(scored)
        for engine in asked.engines:
            out = asked.folder / f"labelled-{engine}"
            runs = [measure(engine, scored, out, asked.threads) for _ in range(asked.repeat)]
            best = min(runs, key=lambda run: sum(run["seconds"].values()))
            results.setdefault(str(rows), {})[engine] = best
            _print(rows, engine, best)
        thresholds = {engine: run["threshold"] for engine, run in results[str(rows)].items()}
        assert len(set(thresholds.values())) == 1, thresholds
    if asked.json:
        asked.json.write_text(json.dumps(results, indent=2) + "\n")


def _print(rows: int, engine: str, found: dict[str, Any]) -> None:
    laps = "  ".join(
        f"{name} {seconds:7.2f} s (cpu {found['cpu_seconds'][name]:.2f}) = "
        f"{rows / seconds / 1e6:6.2f} M rows/s"
        for name, seconds in found["seconds"].items()
    )
    size = f"peak {found['peak_gib']:.2f} GiB, wrote {found['written_gib']:.2f} GiB"
    print(f"{rows:>11,} {engine:7} {laps}  {size}", flush=True)


if __name__ == "__main__":
    main()
