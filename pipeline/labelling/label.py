"""Stage two: scores become labels and confidence weights, with a verdict on how far to trust them.

TGO (arXiv:2605.04653): threshold = percentile of all scores, label = 1[score >= threshold],
weight = 1 + c |score - threshold|; docs/stage_two.md has the other choices. Reads score columns
only, never image bytes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from tgo.pipeline import layout
from tgo.pipeline.config.settings import Label, Settings
from tgo.pipeline.labelling import labeller, plot_data, summary
from tgo.pipeline.labelling.diagnostics import Examined, examine
from tgo.pipeline.labelling.label_counts import Tally, count
from tgo.pipeline.labelling.labeller import Plan
from tgo.pipeline.labelling.score_reader import in_order, numbers
from tgo.pipeline.labelling.weights import EXCLUDED
from tgo.pipeline.storage import shards
from tgo.pipeline.storage.atomic import Commits, remove_partials, write_json
from tgo.pipeline.storage.locks import hold


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
    for line in summary.told(facts):
        print(f"{layout.LABELLED}: {line}")
    return facts


def label_folder(
    scored: Path, labelled: Path, rule: Label, *, seed: int, threads: int = 1
) -> dict[str, Any]:
    """Label every row of a scored folder; returns what threshold.json says.

    Raises InputError when a shard is missing, damaged or lacks a column, when a usable row has
    no finite score and `rule.missing` refuses that, and when no row is usable.
    """
    with hold(labelled):
        remove_partials(labelled)
        made = labeller.make(scored, rule, threads=threads)
        found = examine(made, seed=seed, threads=threads)
        record = labelled / layout.THRESHOLD.name
        record.unlink(missing_ok=True)  # until every label is the new one, none is vouched for
        facts = summary.facts(made, found, write_labels(made, found, labelled, threads=threads))
        write_json(record, facts)
    for warning in facts["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
    return facts


def write_labels(made: Plan, found: Examined, labelled: Path, *, threads: int = 1) -> Tally:
    """Write every labelled shard of a plan, remove any other; returns what was counted."""
    names = {path.name for path in made.paths}
    for path in shards.present(labelled):
        if path.name not in names:
            path.unlink()
    total = Tally()
    with Commits() as commits:

        def write(path: Path) -> Tally:
            return _write(made, found, path, labelled / path.name, commits)

        for part in in_order(made.paths, write, threads):
            total.merge(part)
    return total


def _write(made: Plan, found: Examined, path: Path, to: Path, commits: Commits) -> Tally:
    counted = Tally()

    def tables() -> Iterator[pa.Table]:
        for marked in made.marked(path, list(dict.fromkeys(["id", found.column]))):
            counted.merge(count(marked, found.column, found.interval, found.drift, made.rule.ties))
            yield made.table(marked)

    shards.write_labels(to, tables(), made.schema, commits)
    return counted


def _plot(labelled: Path, plot: Path, threshold: float) -> None:
    def chunks() -> Iterator[plot_data.Chunk]:
        for path in shards.shard_paths(labelled):
            for table in shards.batches(path, ["score", "label"]):
                label = table["label"].to_numpy()
                kept = label != EXCLUDED
                yield numbers(table["score"])[kept], label[kept]

    plot_data.write(plot, chunks, threshold)
