"""A plan examined before it is carried out: intervals, disagreements, drift."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tgo.pipeline.config.label_settings import PROMPT, Label
from tgo.pipeline.errors import InputError
from tgo.pipeline.labelling import subsample
from tgo.pipeline.labelling.label_counts import Ends
from tgo.pipeline.labelling.labeller import Plan
from tgo.pipeline.labelling.score_reader import Feed
from tgo.pipeline.labelling.stats import reliability
from tgo.pipeline.labelling.subsample import Sample
from tgo.pipeline.labelling.thresholds import ByColumn, Global, drawn
from tgo.pipeline.storage import shards

SHOWN_GROUPS = 50
"""Groups of a column whose intervals are estimated and whose figures are shown, largest first."""


@dataclass(frozen=True)
class Examined:
    """What is known of a plan besides the labels themselves."""

    column: str
    """What class balance is told by: the scope's column, or the domain."""
    sample: Sample
    interval: Ends
    overall: tuple[float, float]
    """Interval of the global threshold."""
    drift: Ends | None
    earlier: dict[str, Any] | None
    """The earlier threshold.json."""
    between_prompts: float | None
    between_column: float | None
    versus_prompt: float | None
    """Share of labels that differ between the global threshold and one per prompt."""
    versus_oracle: float | None
    oracle_beta: float | None
    redrawn_flips: float | None
    """With thresholds per prompt: share of labels that flip when its images are redrawn."""
    agreement: dict[str, float]


def examine(plan: Plan, *, seed: int, threads: int = 1) -> Examined:
    """Examine a plan; every figure but the counts comes from a sample of whole prompts.

    Raises InputError if the earlier threshold is missing or of another scalar.
    """
    rule, by_prompt = plan.rule, plan.rule.scope == PROMPT
    column = rule.scope if rule.grouped and not by_prompt else "domain"
    rows = subsample.draw(plan, column, threads)
    groups = rows.groups
    overall = plan.cutoffs.overall
    interval, ends = _intervals(plan, rows, column, seed, threads)
    earlier = _earlier(rule, plan.scalar.unit)
    beta = rule.oracle_beta or _within_std(rows.scores, groups)
    percentile = 50.0 if rule.percentile is None else rule.percentile
    per_prompt = rule.model_copy(
        update={"estimator": "percentile", "percentile": percentile, "ordinal": None}
    )
    oracle = rule.model_copy(update={"estimator": "oracle", "oracle_beta": beta, "ordinal": None})
    global_ = float(overall[0])
    return Examined(
        column,
        rows,
        ends,
        interval,
        _drift(earlier, global_),
        earlier,
        reliability.between_group_share(rows.scores, groups),
        _between_column(rows),
        reliability.disagreement(rows.scores, groups, global_, per_prompt),
        reliability.disagreement(rows.scores, groups, global_, oracle) if beta else None,
        beta,
        reliability.redrawn_flips(rows.scores, groups, overall, rule, seed=seed)
        if by_prompt and not rule.proxy
        else None,
        reliability.agreement(rows.rewards, percentile, rule.ties),
    )


def _intervals(
    plan: Plan, rows: Sample, column: str, seed: int, threads: int
) -> tuple[tuple[float, float], Ends]:
    """Of the global threshold; and of the thresholds that rows have, group by group."""
    source, total = rows, int(plan.moments.count[0])
    if plan.rule.proxy:
        source, total = _proxy_rows(plan, column, threads)
    interval = reliability.threshold_interval(
        source.scores, source.groups, plan.rule, seed=seed, rows=total
    )
    if not isinstance(plan.cutoffs, ByColumn):
        low, high = (np.array([end], np.float32) for end in interval)
        return interval, Ends(low, high)
    return interval, _group_intervals(plan.cutoffs, source, plan.rule, seed)


def _group_intervals(cutoffs: ByColumn, source: Sample, rule: Label, seed: int) -> Ends:
    """Intervals of the largest groups; of the others none is estimated (both ends are equal)."""
    low, high = cutoffs.values[0].copy(), cutoffs.values[0].copy()
    names = cutoffs.feed.names
    for place in np.argsort(-cutoffs.sizes, kind="stable")[:SHOWN_GROUPS]:
        own = source.take(source.column == names[place])
        if not len(own):
            continue
        ends = reliability.threshold_interval(
            own.scores, own.groups, rule, seed=seed, rows=int(cutoffs.sizes[place])
        )
        for end, values in zip(ends, (low, high), strict=True):
            estimate = cutoffs.alone(int(place), end)
            values[place] = drawn(estimate, cutoffs.overall[:1], rule.shrinkage)[0, 0]
    return Ends(low, high, tuple(names))


def _proxy_rows(plan: Plan, column: str, threads: int) -> tuple[Sample, int]:
    """A sample of the rows that the threshold was estimated from, and how many those are."""
    assert plan.rule.proxy is not None
    paths = shards.shard_paths(Path(plan.rule.proxy))
    feed = Feed(paths, plan.scalar, threads=threads)
    models = {name: plan.models[name] for name in plan.rule.reward}
    rule = plan.rule.model_copy(update={"weights": "none", "ordinal": None})
    other = replace(
        plan,
        paths=paths,
        rule=rule,
        models=models,
        cutoffs=Global(feed, plan.cutoffs.overall),
    )
    total = sum(feed.each(lambda part: int((~np.isnan(part.scores)).sum())))
    return subsample.draw(other, column, threads), total


def _between_column(rows: Sample) -> float | None:
    _, numbers = np.unique(rows.column.astype(str), return_inverse=True)
    return reliability.between_group_share(rows.scores, numbers)


def _within_std(scores: NDArray[np.float32], groups: NDArray[np.int64]) -> float | None:
    """Standard deviation of scores around their prompts' means; None if it is nought."""
    values = scores.astype(np.float64)
    means = np.bincount(groups, values) / np.bincount(groups)
    freedom = len(values) - len(means)
    if not freedom:
        return None
    return float(np.sqrt(((values - means[groups]) ** 2).sum() / freedom)) or None


def _drift(earlier: dict[str, Any] | None, now: float) -> Ends | None:
    if earlier is None:
        return None
    low, high = sorted((np.float32(earlier["threshold"]), np.float32(now)))
    return Ends(np.array([low], np.float32), np.array([high], np.float32))


def _earlier(rule: Label, unit: str) -> dict[str, Any] | None:
    """The record that `label.earlier` names; InputError unless its scalar is the same."""
    if rule.earlier is None:
        return None
    try:
        found = json.loads(Path(rule.earlier).read_text(encoding="utf-8"))
        compared: Sequence[tuple[str, str, str]] = [
            ("reward", found["reward"], rule.name),
            ("unit", found["unit"], unit),
        ]
        float(found["threshold"])
    except OSError as error:
        raise InputError(
            f"{rule.earlier}: cannot be read ({error.strerror}); name an earlier threshold.json "
            "in label.earlier, or set it to null"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{rule.earlier}: is no record of a threshold ({error!r}); name an earlier "
            "threshold.json in label.earlier, or set it to null"
        ) from None
    for what, then, now in compared:
        if then != now:
            raise InputError(
                f"{rule.earlier}: its {what} is {then!r}, not {now!r}, so the thresholds cannot be "
                "compared; name another file in label.earlier, or set it to null"
            )
    assert isinstance(found, dict)
    return found
