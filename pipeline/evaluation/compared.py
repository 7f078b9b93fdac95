"""The figures of a comparison: what changed, how sure that is, and what speaks against it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tgo.pipeline.evaluation import stats
from tgo.pipeline.evaluation.paired_images import Pairs
from tgo.pipeline.storage.results import FACTS, GOLD, TRUTH, UTILITY, is_judged

Row = dict[str, float]
SHOWN_DOMAINS = 12
"""The largest domains of a test set; one of fewer than ``FEWEST`` pairs tells nothing."""
FEWEST = 8


def rows(pairs: Pairs, seed: int) -> dict[str, Row]:
    """The figures of every score of a test set.

    Args:
        pairs: the image pairs of the set, with their scores.
        seed: of the bootstrap.

    Returns:
        By score ``base``, ``tuned`` (means over prompts), ``difference`` with ``low`` and ``high``,
        ``std`` (of the base model's scores over images) and the three in units of it as
        ``effect``, ``effect_low``, ``effect_high``; ``win_rate`` with ``win_low`` and ``win_high``
        (not of ``gold``); ``better``, ``worse`` and ``equal`` pairs (of ``truth`` alone); and,
        where there is a truth, ``prefers_worse`` with its interval: the share of pairs that
        differ in truth in which the score prefers the worse picture. All intervals 95 %,
        bootstrapped over prompts.
    """
    found = {name: _row(pairs, name, seed) for name in pairs.scores}
    if TRUTH in found:
        change = pairs.gain(TRUTH)
        found[TRUTH] |= {
            "better": int((change > 0).sum()),
            "worse": int((change < 0).sum()),
            "equal": int((change == 0).sum()),
        }
        for name in pairs.scores:
            if not is_judged(name):
                found[name] |= _prefers_worse(pairs, name, seed)
    return {name: _rounded(row) for name, row in found.items()}


def by_domain(pairs: Pairs, scores: Sequence[str], seed: int) -> dict[str, dict[str, Row]]:
    """The figures of some scores by domain, the largest first; empty where there is only one."""
    counts = Counter(pairs.domains)
    shown = [name for name, count in counts.most_common(SHOWN_DOMAINS) if count >= FEWEST]
    if len(counts) < 2:
        return {}
    domains = np.array(pairs.domains, dtype=object)
    found = {}
    for domain in sorted(shown):
        part = pairs.only(domains == domain)
        deviations = {name: float(pairs.base[name].std()) for name in scores}
        found[domain] = {
            name: _rounded(_row(part, name, seed, deviations[name]) | {"pairs": len(part)})
            for name in scores
        }
    return found


def headline(metrics: Mapping[str, Any], score: str | None) -> dict[str, Row]:
    """The few numbers of metrics.json, as far as there are any.

    By set the `gain` of the main score in standard deviations, the share of pairs `won`, the change
    of the `truth`, that of its raters' `liking` in deviations, and the share of pairs in which
    `people` prefer the tuned model. Names and figures are short, for DVC's tables.
    """
    people = metrics[FACTS].get("people", {})
    return {
        name: {
            key: round(value, 4)
            for key, value in (
                ("gain", found.get(score or "", {}).get("effect")),
                ("won", found.get(score or "", {}).get("win_rate")),
                ("truth", found.get(TRUTH, {}).get("difference")),
                ("liking", found.get(f"{UTILITY}{score}", {}).get("effect")),
                ("people", people.get(name, {}).get("win_rate")),
            )
            if value is not None
        }
        for name, found in metrics.items()
        if name != FACTS
    }


def _row(pairs: Pairs, name: str, seed: int, std: float | None = None) -> Row:
    base, tuned = pairs.base[name], pairs.tuned[name]
    change = stats.paired_difference(base, tuned, pairs.prompt_ids, seed=seed)
    deviation = float(base.std()) if std is None else std
    row = {
        "base": float(stats.mean_by_prompt(base, pairs.prompt_ids).mean()),
        "tuned": float(stats.mean_by_prompt(tuned, pairs.prompt_ids).mean()),
        "difference": change.value,
        "low": change.low,
        "high": change.high,
        "std": deviation,
    }
    if deviation > 0:
        ends = {"effect": change.value, "effect_low": change.low, "effect_high": change.high}
        row |= {key: value / deviation for key, value in ends.items()}
    if name != GOLD:
        wins = stats.win_rate(base, tuned, pairs.prompt_ids, seed=seed)
        row |= {"win_rate": wins.value, "win_low": wins.low, "win_high": wins.high}
    return row


def _prefers_worse(pairs: Pairs, name: str, seed: int) -> Row:
    truth = pairs.gain(TRUTH)
    differs: NDArray[np.bool_] = truth != 0
    if not differs.any():
        return {}
    # as in the win rate, a tie is half a preference
    wrong = (1 - np.sign(pairs.gain(name)[differs]) * np.sign(truth[differs])) / 2
    prompts = [row for row, kept in zip(pairs.prompt_ids, differs, strict=True) if kept]
    share = stats.bootstrap_mean(stats.mean_by_prompt(wrong, prompts), seed=seed)
    return {
        "prefers_worse": share.value,
        "prefers_worse_low": share.low,
        "prefers_worse_high": share.high,
    }


def _rounded(row: Row) -> Row:
    """Six decimals: finer than any of these is known, and stable to read in a diff."""
    return {key: round(value, 6) for key, value in row.items()}
