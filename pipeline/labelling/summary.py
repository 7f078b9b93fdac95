"""The figures of stage two and what they mean: threshold.json, printed lines, warnings, advice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tgo.pipeline.config.label_settings import PROMPT
from tgo.pipeline.labelling.advice import flips, recommendation, shift_line, warnings
from tgo.pipeline.labelling.diagnostics import SHOWN_GROUPS, Diagnosis, LabelCounts
from tgo.pipeline.labelling.labeller import Labeller
from tgo.pipeline.labelling.reliability import expected_errors
from tgo.pipeline.labelling.stats.quantiles import percentiles
from tgo.pipeline.labelling.thresholds import LEAST_ROWS, ByColumn

PRINTED_GROUPS = 10


def facts(labeller: Labeller, found: Diagnosis, counts: LabelCounts) -> dict[str, Any]:
    """Everything that threshold.json says."""
    rule, overall = labeller.rule, labeller.thresholds.overall
    model = labeller.models[rule.leading]
    single = len(rule.reward) == 1
    record: dict[str, Any] = {
        **rule.model_dump(),
        "identity": labeller.identity,
        "reward": rule.name,
        "unit": labeller.scalar.unit,
        "version": model["version"] if single else None,
        "checkpoint_sha256": model["checkpoint_sha256"] if single else None,
        "rewards": _rewards(labeller),
        "threshold": float(overall[0]),
        "ordinal_thresholds": overall[1:].tolist() if rule.ordinal else None,
        "low": found.overall[0],
        "high": found.overall[1],
        "n": counts.n,
        "excluded": labeller.statistics.rows - counts.n,
        "filtered": labeller.statistics.filtered,
        "positives": counts.positives,
        "positives_share": counts.positives / counts.n,
        "ties_share": counts.ties / counts.n,
        "score_mean": labeller.statistics.moments.mean(),
        "score_std": labeller.statistics.moments.std(),
        "weight_quantiles": _quantiles(found.sample.weight),
        "diagnosed_rows": len(found.sample),
        "diagnosed_prompts": found.sample.prompts,
        "flips_in_interval": found.resampled_flips
        if found.resampled_flips is not None
        else counts.inside / counts.n,
        "balance_column": found.column,
        "groups": _groups(labeller, found, counts),
        "groups_in_all": len(counts.group_rows),
        "between_prompt_variance_share": found.between_prompts,
        "between_group_variance_share": found.between_column,
        "disagreement_with_prompt": found.versus_prompt,
        "disagreement_with_oracle": found.versus_oracle,
        "disagreement_oracle_beta": found.oracle_beta,
        "agreement": found.agreement,
        "threshold_shift": _shift(labeller, found, counts),
    }
    record["expected_errors"] = _expected(record)
    record["recommendation"] = recommendation(record)
    record["warnings"] = list(warnings(record))
    return record


def lines(record: Mapping[str, Any]) -> list[str]:
    """What `tgo label` prints of threshold.json."""
    unit = f" ({record['unit']})"
    printed = [
        f"threshold {record['threshold']:.6g}{unit}, 95 % interval {record['low']:.6g} to "
        f"{record['high']:.6g}; {flips(record)}",
        f"{record['positives_share']:.1%} of {record['n']:,} positive, "
        f"{record['excluded']:,} excluded"
        + (f" ({record['filtered']:,} by label.filter)" if record["filtered"] else ""),
    ]
    if record["groups_in_all"] > 1:
        printed.append(_balance(record))
        printed += _group_thresholds(record)
    for key, text in (
        ("between_prompt_variance_share", "score variance between prompts"),
        ("between_group_variance_share", f"between values of {record['balance_column']}"),
        ("disagreement_with_prompt", "labels that a threshold per prompt would change"),
        ("disagreement_with_oracle", "labels that the oracle baseline would change"),
    ):
        if record[key] is not None:
            printed.append(f"{text}: {record[key]:.1%}")
    printed += _raters(record)
    if record["agreement"]:
        own = [f"{pair} {share:.0%}" for pair, share in record["agreement"].items()]
        printed.append(f"labels on which reward models agree: {', '.join(own)}")
    if record["threshold_shift"]:
        printed.append(shift_line(record["threshold_shift"]))
    printed.append(f"advice: {record['recommendation']}")
    return printed


def _raters(record: Mapping[str, Any]) -> Iterator[str]:
    """How far the people agree whose ratings were imported."""
    for model in record["rewards"].values():
        if model.get("raters"):
            alpha = model["alpha"]
            how = "no image has two" if alpha is None else f"Krippendorff's alpha {alpha:.2f}"
            yield f"ratings of {model['raters']} raters: {how}"


def _expected(record: Mapping[str, Any]) -> dict[str, dict[str, float | None]] | None:
    between = record["between_prompt_variance_share"]
    if between is None:
        return None
    images = record["diagnosed_rows"] / record["diagnosed_prompts"]
    column = record["between_group_variance_share"] or 0.0
    shrinkage = (record["shrinkage"] or 0.0) if record["scope"] == PROMPT else 0.0
    found = expected_errors(between, min(column, between), max(images, 1.0), shrinkage)
    return {name: {"share": share, "shrinkage": k} for name, (share, k) in found.items()}


def _rewards(labeller: Labeller) -> dict[str, dict[str, Any]]:
    """Per reward model: its weight, where it comes from, and how it was standardised."""
    found = {}
    for name, weight in labeller.rule.reward.items():
        model, moments = labeller.models[name], labeller.scalar.moments.get(name)
        found[name] = {
            "weight": weight,
            "unit": model["unit"],
            "version": model["version"],
            "checkpoint_sha256": model["checkpoint_sha256"],
            **(_table(model) if "ratings" in model else {}),
            "missing": labeller.statistics.missing[name],
            "mean": moments.mean() if moments else None,
            "std": moments.std() if moments else None,
        }
    return found


def _table(model: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of the table that ratings of people came from."""
    keys = ("model", "images", "counted", "ratings", "aggregate")
    return {key: model.get(key) for key in (*keys, "raters", "alpha", "random_raters")}


def _groups(labeller: Labeller, found: Diagnosis, counts: LabelCounts) -> dict[str, dict[str, Any]]:
    """Class balance and thresholds of the largest groups."""
    largest = sorted(counts.group_rows, key=lambda name: (-counts.group_rows[name], name))
    groups: dict[str, dict[str, Any]] = {}
    for name in largest[:SHOWN_GROUPS]:
        rows, positives = counts.group_rows[name], counts.group_positives[name]
        groups[name] = {"n": rows, "positives_share": positives / rows}
        if isinstance(labeller.thresholds, ByColumn):
            group = found.interval.names.index(name)
            groups[name] |= {
                "threshold": float(labeller.thresholds.values[0, group]),
                "low": float(found.interval.low[group]),
                "high": float(found.interval.high[group]),
                "own": bool(labeller.thresholds.sizes[group] >= LEAST_ROWS),
            }
    return groups


def _shift(labeller: Labeller, found: Diagnosis, counts: LabelCounts) -> dict[str, Any] | None:
    if found.earlier is None:
        return None
    now, then = float(labeller.thresholds.overall[0]), float(found.earlier["threshold"])
    std = labeller.statistics.moments.std()
    return {
        "earlier": then,
        "shift": now - then,
        "shift_in_std": (now - then) / std if std > 0 else None,
        "outside_interval": not found.overall[0] <= then <= found.overall[1],
        "labels_changed_share": counts.changed / counts.n,
    }


def _balance(record: Mapping[str, Any]) -> str:
    groups = record["groups"]
    ends = sorted(groups, key=lambda name: groups[name]["positives_share"])
    low, high = ends[0], ends[-1]
    return (
        f"positives by {record['balance_column']}: {groups[low]['positives_share']:.1%} ({low}) to "
        f"{groups[high]['positives_share']:.1%} ({high}), {record['groups_in_all']} values"
    )


def _group_thresholds(record: Mapping[str, Any]) -> Iterator[str]:
    """The largest groups with thresholds of their own, a line each."""
    own = {name: group for name, group in record["groups"].items() if "threshold" in group}
    for name, group in list(own.items())[:PRINTED_GROUPS]:
        yield (
            f"  {name}: threshold {group['threshold']:.6g} ({group['low']:.6g} to "
            f"{group['high']:.6g}), {group['positives_share']:.1%} of {group['n']:,} positive"
            + ("" if group["own"] else ", the global threshold")
        )
    if len(own) > PRINTED_GROUPS:
        yield f"  and {record['groups_in_all'] - PRINTED_GROUPS} more (threshold.json has 50)"


def _quantiles(weight: NDArray[np.float32]) -> dict[str, float]:
    names = {"min": 0.0, "p05": 5.0, "median": 50.0, "p95": 95.0, "max": 100.0}
    found, _, _ = percentiles(lambda: [weight], list(names.values()))
    return dict(zip(names, found, strict=True))
