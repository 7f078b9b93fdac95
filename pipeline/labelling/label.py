"""Stage two: scores become labels and confidence weights, with a record of how reliable they are.

TGO (arXiv:2605.04653): threshold = percentile of all scores, label = 1[score >= threshold],
weight = 1 + c |score - threshold| (`rule`); docs/stage_two.md has the other choices. Reads score
columns only, never image bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tgo.pipeline import layout
from tgo.pipeline.config.settings import Label, Settings
from tgo.pipeline.labelling import diagnostics, labeller, plot_data, summary
from tgo.pipeline.labelling.diagnostics import Diagnosis, LabelCounts
from tgo.pipeline.labelling.labeller import LabelledRows, Labeller
from tgo.pipeline.labelling.rule import EXCLUDED
from tgo.pipeline.labelling.score_reader import in_order, numbers
from tgo.pipeline.storage import label_record, shards
from tgo.pipeline.storage.atomic import Commits, canonical, remove_partials, write_json
from tgo.pipeline.storage.locks import hold

log = logging.getLogger(__name__)


def run(settings: Settings) -> dict[str, Any]:
    """Stage `label`: data/scored to data/labelled, threshold.json and the plot's data."""
    facts = label_folder(
        layout.SCORED,
        layout.LABELLED,
        settings.label,
        seed=settings.seed,
        threads=settings.threads,
    )
    _plot(layout.LABELLED, layout.SCORE_DISTRIBUTION, facts["threshold"])
    for line in summary.lines(facts):
        log.info("%s: %s", layout.LABELLED, line)
    return facts


def label_folder(
    scored: Path, labelled: Path, rule: Label, *, seed: int, threads: int = 1
) -> dict[str, Any]:
    """Label every row of a scored folder.

    Args:
        scored: the folder of scored shards.
        labelled: the folder for the labelled shards and threshold.json.
        rule: the settings of stage two.
        seed: of the resampling behind intervals and flip rates.
        threads: shards worked on at once.

    Returns:
        What threshold.json says.

    Raises:
        InputError: a shard is missing, damaged or lacks a column, a usable row has no finite
            score and `rule.missing` refuses that, or no row is usable.
    """
    with hold(labelled):
        remove_partials(labelled)
        fitted = labeller.fit(scored, rule, threads=threads)
        found = diagnostics.diagnose(fitted, seed=seed, threads=threads)
        record = labelled / label_record.NAME
        record.unlink(missing_ok=True)  # it appears when every label is of this rule
        counts = write_labels(fitted, found, labelled, threads=threads)
        facts = summary.facts(fitted, found, counts)
        write_json(record, facts)
    for warning in facts["warnings"]:
        log.warning(warning)
    return facts


def write_labels(
    fitted: Labeller, found: Diagnosis, labelled: Path, *, threads: int = 1
) -> LabelCounts:
    """Write every labelled shard, remove any other, and count the labels."""
    names = {path.name for path in fitted.paths}
    for path in shards.present(labelled):
        if path.name not in names:
            path.unlink()
    total = LabelCounts()
    with Commits() as commits:

        def write(path: Path) -> LabelCounts:
            return _write(fitted, found, path, labelled / path.name, commits)

        for counts in in_order(fitted.paths, write, threads):
            total.merge(counts)
    return total


def schema(fitted: Labeller) -> pa.Schema:
    """The columns of a labelled shard, with `target` if the rule is ordinal, and its metadata."""
    columns = shards.LABELLED_SCHEMA
    if fitted.rule.ordinal:
        columns = columns.append(pa.field("target", pa.float32()))
    rule = fitted.rule.model_dump() | {
        "thresholds": fitted.thresholds.overall.tolist(),
        "identity": fitted.identity,
    }
    return columns.with_metadata({"tgo.label": canonical(rule)})


def table(fitted: Labeller, rows: LabelledRows) -> pa.Table:
    """Labelled rows as they are written; `rows.batch.table` must hold the ids."""
    assert rows.batch.table is not None
    columns = [
        rows.batch.table["id"],
        _arrow(rows.batch.scores, pa.float32(), rows.usable),
        _arrow(rows.threshold, pa.float32()),
        _arrow(rows.label, pa.int8()),
        _arrow(rows.weight, pa.float32()),
    ]
    if rows.target is not None:
        columns.append(_arrow(rows.target, pa.float32(), rows.usable))
    return pa.Table.from_arrays(columns, schema=schema(fitted))


def _write(
    fitted: Labeller, found: Diagnosis, path: Path, to: Path, commits: Commits
) -> LabelCounts:
    counts = LabelCounts()

    def tables() -> Iterator[pa.Table]:
        for rows in fitted.shard(path, list(dict.fromkeys(["id", found.column]))):
            counts.merge(diagnostics.count(rows, found, fitted.rule.ties))
            yield table(fitted, rows)

    shards.write_labels(to, tables(), schema(fitted), commits)
    return counts


def _arrow(
    values: NDArray[Any], kind: pa.DataType, valid: NDArray[np.bool_] | None = None
) -> pa.Array:
    """An array over the memory of `values`, null where not `valid`; `pa.array` would copy it."""
    bits = None if valid is None else pa.py_buffer(np.packbits(valid, bitorder="little"))
    held = pa.py_buffer(np.ascontiguousarray(values))
    return pa.Array.from_buffers(kind, len(values), [bits, held])


def _plot(labelled: Path, plot: Path, threshold: float) -> None:
    def chunks() -> Iterator[plot_data.Chunk]:
        for path in shards.shard_paths(labelled):
            for batch in shards.batches(path, ["score", "label"]):
                label = batch["label"].to_numpy()
                kept = label != EXCLUDED
                yield numbers(batch["score"])[kept], label[kept]

    plot_data.write(plot, chunks, threshold)
