"""The figures of stage two and what they mean: threshold.json, printed lines, warnings, advice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tgo.pipeline.config.label_settings import PROMPT
from tgo.pipeline.labelling.diagnostics import SHOWN_GROUPS, Examined
from tgo.pipeline.labelling.label_counts import Tally
from tgo.pipeline.labelling.labeller import Plan
from tgo.pipeline.labelling.stats.quantiles import percentiles
from tgo.pipeline.labelling.stats.reliability import expected_errors
from tgo.pipeline.labelling.thresholds import LEAST_ROWS, ByColumn

FEW_ROWS, FEW_PROMPTS, FEW_IN_GROUP = 500, 100, 30
BALANCED = (0.2, 0.8)
MANY_FLIPS = 0.1
WORTH_A_CHANGE = 0.01
"""Fall of the expected share of wrong labels that makes another scope worth recommending."""


def facts(plan: Plan, found: Examined, tally: Tally) -> dict[str, Any]:
    """Everything that threshold.json says."""
    rule, overall = plan.rule, plan.cutoffs.overall
    model = plan.models[rule.leading]
    single = len(rule.reward) == 1
    record: dict[str, Any] = {
        **rule.model_dump(),
        "reward": rule.name,
        "unit": plan.scalar.unit,
        "version": model["version"] if single else None,
        "checkpoint_sha256": model["checkpoint_sha256"] if single else None,
        "rewards": _rewards(plan),
        "threshold": float(overall[0]),
        "ordinal_thresholds": overall[1:].tolist() if rule.ordinal else None,
        "low": found.overall[0],
        "high": found.overall[1],
        "n": tally.n,
        "excluded": plan.rows - tally.n,
        "positives": tally.positives,
        "positives_share": tally.positives / tally.n,
        "score_mean": plan.moments.mean(),
        "score_std": plan.moments.std(),
        "weight_quantiles": _quantiles(found.sample.weight),
        "diagnosed_rows": len(found.sample),
        "diagnosed_prompts": found.sample.prompts,
        "flips_in_interval": found.redrawn_flips
        if found.redrawn_flips is not None
        else tally.inside / tally.n,
        "balance_column": found.column,
        "groups": _groups(plan, found, tally),
        "groups_in_all": len(tally.group_rows),
        "between_prompt_variance_share": found.between_prompts,
        "between_group_variance_share": found.between_column,
        "disagreement_with_prompt": found.versus_prompt,
        "disagreement_with_oracle": found.versus_oracle,
        "disagreement_oracle_beta": found.oracle_beta,
        "agreement": found.agreement,
        "drift": _drift(plan, found, tally),
    }
    record["expected_errors"] = _expected(record)
    record["recommendation"] = recommendation(record)
    record["warnings"] = list(_warnings(record))
    return record


def told(record: Mapping[str, Any]) -> list[str]:
    """The record in lines for a person."""
    unit = f" ({record['unit']})"
    lines = [
        f"threshold {record['threshold']:.6g}{unit}, 95 % interval {record['low']:.6g} to "
        f"{record['high']:.6g}; {_flips(record)}",
        f"{record['positives_share']:.1%} of {record['n']:,} positive, "
        f"{record['excluded']:,} excluded",
    ]
    if record["groups_in_all"] > 1:
        lines.append(_balance(record))
    for key, text in (
        ("between_prompt_variance_share", "score variance between prompts"),
        ("between_group_variance_share", f"between values of {record['balance_column']}"),
        ("disagreement_with_prompt", "labels that a threshold per prompt would change"),
        ("disagreement_with_oracle", "labels that the oracle baseline would change"),
    ):
        if record[key] is not None:
            lines.append(f"{text}: {record[key]:.1%}")
    if record["agreement"]:
        own = [f"{pair} {share:.0%}" for pair, share in record["agreement"].items()]
        lines.append(f"labels on which reward models agree: {', '.join(own)}")
    if record["drift"]:
        lines.append(_drift_line(record["drift"]))
    lines.append(f"advice: {record['recommendation']}")
    return lines


def recommendation(record: Mapping[str, Any]) -> str:
    """What to do about the scope, in one sentence with its figures."""
    expected = record["expected_errors"]
    if expected is None:
        return (
            f"keep label.scope = {record['scope']}: whether prompts need thresholds of their own "
            "cannot be told without several images for some prompts (score.images_per_prompt)"
        )
    best = min(expected, key=lambda name: expected[name]["share"])
    now = expected[_present(record)]["share"]
    then = expected[best]
    if now - then["share"] < WORTH_A_CHANGE:
        return (
            f"keep label.scope = {record['scope']}: about {now:.1%} of labels differ from their "
            "prompt's own baseline, and no other scope is clearly better"
        )
    scope = {"column": record["balance_column"], "global": "global"}.get(best, PROMPT)
    k = then["shrinkage"]
    shrinkage = "null" if k is None else f"{k:.2g}"
    return (
        f"set label.scope to {scope} and label.shrinkage to {shrinkage}: the share of labels that "
        f"differ from their prompt's own baseline is expected to fall from {now:.1%} to "
        f"{then['share']:.1%}"
    )


def _present(record: Mapping[str, Any]) -> str:
    """The name of the rule's own scope among the expected errors."""
    if record["scope"] == "global":
        return "global"
    return PROMPT if record["scope"] == PROMPT else "column"


def _expected(record: Mapping[str, Any]) -> dict[str, dict[str, float | None]] | None:
    between = record["between_prompt_variance_share"]
    if between is None:
        return None
    images = record["diagnosed_rows"] / record["diagnosed_prompts"]
    column = record["between_group_variance_share"] or 0.0
    shrinkage = (record["shrinkage"] or 0.0) if record["scope"] == PROMPT else 0.0
    found = expected_errors(between, min(column, between), max(images, 1.0), shrinkage)
    return {name: {"share": share, "shrinkage": k} for name, (share, k) in found.items()}


def _warnings(record: Mapping[str, Any]) -> Iterator[str]:
    """What a person should know before training on these labels, with numbers."""
    n, share = record["n"], record["positives_share"]
    if record["positives"] in (0, n):
        yield (
            f"all {n} labels are the same; the scores are equal or the threshold "
            f"{record['threshold']:.6g} is too extreme for label.ties = {record['ties']}"
        )
    elif not BALANCED[0] <= share <= BALANCED[1]:
        yield (
            f"{share:.1%} of the labels are positive: the smaller class has "
            f"{min(record['positives'], n - record['positives'])} rows of {n}"
        )
    prompts = record["diagnosed_prompts"]
    if record["diagnosed_rows"] == n and (n < FEW_ROWS or prompts < FEW_PROMPTS):
        yield (
            f"{n} rows of {prompts} prompts are few: the threshold lies between "
            f"{record['low']:.6g} and {record['high']:.6g}, and {_flips(record)}"
        )
    elif record["flips_in_interval"] > MANY_FLIPS:
        yield f"the threshold is uncertain: {_flips(record)}"
    yield from _group_warnings(record)
    for name, model in record["rewards"].items():
        if model["missing"]:
            yield (
                f"{model['missing']} rows have no {name} score "
                f"(label.missing = {record['missing']})"
            )
    drift = record["drift"]
    if drift and drift["outside_interval"]:
        yield _drift_line(drift)


def _group_warnings(record: Mapping[str, Any]) -> Iterator[str]:
    groups, column = record["groups"], record["balance_column"]
    if len(groups) < 2:
        return
    small = {name: group["n"] for name, group in groups.items() if group["n"] < FEW_IN_GROUP}
    if small and record["scope"] == column:
        name = min(small, key=lambda key: small[key])
        yield (
            f"{len(small)} values of {column} have fewer than {FEW_IN_GROUP} rows ({name} has "
            f"{small[name]}); set label.shrinkage to draw their thresholds to the global one"
        )
    uneven = {
        name: group["positives_share"]
        for name, group in groups.items()
        if group["n"] >= FEW_IN_GROUP and not BALANCED[0] <= group["positives_share"] <= BALANCED[1]
    }
    if uneven:
        worst = max(uneven, key=lambda key: abs(uneven[key] - 0.5))
        yield (
            f"{len(uneven)} values of {column} have one class almost alone ({worst}: "
            f"{uneven[worst]:.1%} positive); label.scope = {column} gives each its own threshold"
            if record["scope"] != column
            else f"{len(uneven)} values of {column} have one class almost alone ({worst}: "
            f"{uneven[worst]:.1%} positive)"
        )


def _rewards(plan: Plan) -> dict[str, dict[str, Any]]:
    """Per reward model: its weight, where it comes from, and how it was standardised."""
    found = {}
    for name, weight in plan.rule.reward.items():
        model, moments = plan.models[name], plan.scalar.moments.get(name)
        found[name] = {
            "weight": weight,
            "unit": model["unit"],
            "version": model["version"],
            "checkpoint_sha256": model["checkpoint_sha256"],
            "missing": plan.missing[name],
            "mean": moments.mean() if moments else None,
            "std": moments.std() if moments else None,
        }
    return found


def _groups(plan: Plan, found: Examined, tally: Tally) -> dict[str, dict[str, Any]]:
    """Class balance and thresholds of the largest groups."""
    largest = sorted(tally.group_rows, key=lambda name: (-tally.group_rows[name], name))
    groups: dict[str, dict[str, Any]] = {}
    for name in largest[:SHOWN_GROUPS]:
        rows, positives = tally.group_rows[name], tally.group_positives[name]
        groups[name] = {"n": rows, "positives_share": positives / rows}
        if isinstance(plan.cutoffs, ByColumn):
            place = found.interval.names.index(name)
            groups[name] |= {
                "threshold": float(plan.cutoffs.values[0, place]),
                "low": float(found.interval.low[place]),
                "high": float(found.interval.high[place]),
                "own": bool(plan.cutoffs.sizes[place] >= LEAST_ROWS),
            }
    return groups


def _drift(plan: Plan, found: Examined, tally: Tally) -> dict[str, Any] | None:
    if found.earlier is None:
        return None
    now, then = float(plan.cutoffs.overall[0]), float(found.earlier["threshold"])
    std = plan.moments.std()
    return {
        "earlier": then,
        "shift": now - then,
        "shift_in_std": (now - then) / std if std > 0 else None,
        "outside_interval": not found.overall[0] <= then <= found.overall[1],
        "labels_moved_share": tally.moved / tally.n,
    }


def _drift_line(drift: Mapping[str, Any]) -> str:
    where = "outside" if drift["outside_interval"] else "inside"
    return (
        f"the threshold moved by {drift['shift']:+.6g} from {drift['earlier']:.6g}, which lies "
        f"{where} today's interval; {drift['labels_moved_share']:.1%} of labels change"
    )


def _flips(record: Mapping[str, Any]) -> str:
    share = f"{record['flips_in_interval']:.1%} of labels flip"
    if record["scope"] == PROMPT and not record["proxy"]:
        return f"{share} when a prompt's images are drawn again"
    return f"{share} inside the interval"


def _balance(record: Mapping[str, Any]) -> str:
    groups = record["groups"]
    ends = sorted(groups, key=lambda name: groups[name]["positives_share"])
    low, high = ends[0], ends[-1]
    return (
        f"positives by {record['balance_column']}: {groups[low]['positives_share']:.1%} ({low}) to "
        f"{groups[high]['positives_share']:.1%} ({high}), {record['groups_in_all']} values"
    )


def _quantiles(weight: NDArray[np.float32]) -> dict[str, float]:
    names = {"min": 0.0, "p05": 5.0, "median": 50.0, "p95": 95.0, "max": 100.0}
    found, _, _ = percentiles(lambda: [weight], list(names.values()))
    return dict(zip(names, found, strict=True))
