"""Stage two: one global threshold turns scores into labels and confidence weights.

TGO (arXiv:2605.04653): threshold = percentile of all scores, label = 1[score >= threshold],
weight = 1 + c |score - threshold|. Reads score columns only, never image bytes.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline import diagnosis, distribution, layout, shards
from pipeline.atomic import canonical, remove_partials, write_json
from pipeline.errors import InputError
from pipeline.locks import hold
from pipeline.settings import Label, Settings
from pipeline.threshold import percentiles

POSITIVE, NEGATIVE, EXCLUDED = 1, 0, -1


@dataclass(frozen=True)
class ScoredRows:
    """The rows of one scored shard that matter here; arrays [n]."""

    path: Path
    ids: pa.ChunkedArray
    prompt_ids: NDArray[np.object_]
    scores: NDArray[np.float32]  # NaN where the row is excluded
    usable: NDArray[np.bool_]


def run(settings: Settings) -> dict[str, Any]:
    """Stage `label`: data/scored to data/labelled, threshold.json and the plot's data."""
    facts = label_folder(layout.SCORED, layout.LABELLED, settings.label, seed=settings.seed)
    _plot(layout.LABELLED, layout.SCORE_DISTRIBUTION, facts["threshold"])
    print(
        f"{layout.LABELLED}: threshold {facts['threshold']:.6g} ({facts['low']:.6g} to "
        f"{facts['high']:.6g}), {facts['positives_share']:.1%} of {facts['n']} positive, "
        f"{facts['excluded']} excluded"
    )
    return facts


def label_folder(scored: Path, labelled: Path, rule: Label, *, seed: int) -> dict[str, Any]:
    """Label every row of a scored folder; returns what threshold.json says.

    Raises InputError when a shard is missing, damaged or lacks the reward's column, when a
    usable row has no finite score, and when no row is usable.
    """
    with hold(labelled):
        remove_partials(labelled)
        parts = [read_scores(path, rule.reward) for path in shards.shard_paths(scored)]
        facts = estimate(parts, rule, seed=seed)
        record = labelled / layout.THRESHOLD.name
        record.unlink(missing_ok=True)  # until every label is the new one, none is vouched for
        names = {part.path.name for part in parts}
        for path in shards.present(labelled):
            if path.name not in names:
                path.unlink()
        for part in parts:
            shards.write_shard(labelled / part.path.name, labelled_table(part, rule, facts))
        write_json(record, facts)
    _warn(facts)
    return facts


def labels(
    scores: NDArray[np.float32], usable: NDArray[np.bool_], threshold: float, ties: str
) -> NDArray[np.int8]:
    """1 where score >= threshold (ties "positive") or > (ties "negative"), else 0; int8 [n].

    Rows that are not usable get -1.
    """
    above = scores >= threshold if ties == "positive" else scores > threshold
    return np.where(usable, np.where(above, POSITIVE, NEGATIVE), EXCLUDED).astype(np.int8)


def weights(
    scores: NDArray[np.float32],
    usable: NDArray[np.bool_],
    threshold: float,
    rule: Label,
    std: float,
) -> NDArray[np.float32]:
    """``1 + c |s - threshold|`` ("raw", the paper's), in units of the scores' standard deviation
    ("standardised": c means the same for every reward model), or 1 ("none"); 0 if not usable.

    Scores that are all equal have no spread and all lie at the threshold: weight 1.
    """
    if rule.weights == "none":
        return usable.astype(np.float32)
    distance = np.abs(scores.astype(np.float64) - threshold)
    if rule.weights == "standardised":
        distance = distance / std if std > 0 else np.zeros_like(distance)
    return np.where(usable, 1 + rule.confidence * distance, 0).astype(np.float32)


def estimate(parts: list[ScoredRows], rule: Label, *, seed: int) -> dict[str, Any]:
    """The threshold and everything that tells how far to trust it, for threshold.json."""
    scores = _usable_scores(parts)
    if not len(scores):
        raise InputError(
            f"{parts[0].path.parent}: has no usable row (every status is failed); look at the "
            "column `error`, mend its cause and run `tgo score` again"
        )
    usable = np.ones(len(scores), bool)
    (threshold,), count, _ = percentiles(lambda: [scores], [rule.percentile])
    std = float(scores.std(dtype=np.float64))
    prompt_ids = np.concatenate([part.prompt_ids[part.usable] for part in parts])
    _, groups = np.unique(prompt_ids, return_inverse=True)
    low, high = diagnosis.threshold_interval(scores, groups, rule.percentile, seed=seed)
    positives = int(labels(scores, usable, threshold, rule.ties).sum())
    model = shards.read_metadata(parts[0].path)["tgo.rewards"][rule.reward]
    weight = weights(scores, usable, threshold, rule, std)
    return {
        "reward": rule.reward,
        "unit": model["unit"],
        "version": model["version"],
        "checkpoint_sha256": model["checkpoint_sha256"],
        "percentile": rule.percentile,
        "ties": rule.ties,
        "weights": rule.weights,
        "confidence": rule.confidence,
        "threshold": threshold,
        "low": low,
        "high": high,
        "n": count,
        "excluded": sum(len(part.usable) for part in parts) - count,
        "prompts": int(groups.max()) + 1,
        "positives": positives,
        "positives_share": positives / count,
        "score_mean": float(scores.mean(dtype=np.float64)),
        "score_std": std,
        "between_prompt_variance_share": diagnosis.between_group_share(scores, groups),
        "weight_quantiles": _quantiles(weight),
    }


def read_scores(path: Path, reward: str) -> ScoredRows:
    """One reward's scores of a scored shard; InputError names an id without a finite score."""
    table = shards.read_shard(path, ["id", "prompt_id", "status", reward])
    usable = table["status"].to_numpy() == "ok"
    scores = table[reward].to_numpy().astype(np.float32)  # null becomes NaN
    bad = usable & ~np.isfinite(scores)
    if bad.any():
        place = int(bad.argmax())
        raise InputError(
            f"{path}: {table['id'][place]} has the {reward} score {scores[place]}; remove that "
            "shard and run `tgo score` again, which makes it anew"
        )
    scores = np.where(usable, scores, np.float32(np.nan))
    return ScoredRows(path, table["id"], table["prompt_id"].to_numpy(), scores, usable)


def labelled_table(part: ScoredRows, rule: Label, facts: dict[str, Any]) -> pa.Table:
    """The labelled shard of a scored one, by the rule and the facts of threshold.json."""
    threshold = facts["threshold"]
    label = labels(part.scores, part.usable, threshold, rule.ties)
    weight = weights(part.scores, part.usable, threshold, rule, facts["score_std"])
    kept = ("reward", "percentile", "ties", "weights", "confidence", "threshold")
    rule_used = canonical({key: facts[key] for key in kept})
    return pa.table(
        {
            "id": part.ids,
            "score": pa.array(part.scores, mask=~part.usable),
            "threshold": np.full(len(label), threshold, np.float32),
            "label": label,
            "weight": weight,
        },
        schema=shards.LABELLED_SCHEMA.with_metadata({"tgo.label": rule_used}),
    )


def _plot(labelled: Path, plot: Path, threshold: float) -> None:
    paths = shards.shard_paths(labelled)
    table = pa.concat_tables(shards.read_shard(path, ["score", "label"]) for path in paths)
    label = table["label"].to_numpy()
    scores = table["score"].to_numpy()[label != EXCLUDED].astype(np.float32)
    distribution.write(plot, scores, label[label != EXCLUDED], threshold)


def _usable_scores(parts: list[ScoredRows]) -> NDArray[np.float32]:
    return np.concatenate([part.scores[part.usable] for part in parts])


def _quantiles(weight: NDArray[np.float32]) -> dict[str, float]:
    names = {"min": 0.0, "p05": 5.0, "median": 50.0, "p95": 95.0, "max": 100.0}
    found, _, _ = percentiles(lambda: [weight], list(names.values()))
    return dict(zip(names, found, strict=True))


def _warn(facts: dict[str, Any]) -> None:
    """A label that all rows share teaches nothing: say so instead of training on it silently."""
    if facts["positives"] in (0, facts["n"]):
        print(
            f"warning: all {facts['n']} labels are the same; the scores are equal or "
            f"label.percentile = {facts['percentile']:g} is too extreme for label.ties = "
            f"{facts['ties']}",
            file=sys.stderr,
        )
