"""What a person should know and do about the labels: warnings and advice, from threshold.json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tgo.pipeline.config.label_settings import PROMPT

FEW_ROWS, FEW_PROMPTS, FEW_IN_GROUP = 500, 100, 30
BALANCED = (0.2, 0.8)
MANY_FLIPS = 0.1
MANY_TIES = 0.1
WORTH_A_CHANGE = 0.01
"""Fall of the expected share of wrong labels that makes another scope worth recommending."""


def recommendation(record: Mapping[str, Any]) -> str:
    """What to do about the scope, in one sentence with its figures."""
    expected = record["expected_errors"]
    if expected is None:
        return (
            f"keep label.scope = {record['scope']}: whether prompts need thresholds of their own "
            "cannot be estimated without several images for some prompts (score.images_per_prompt)"
        )
    best = min(expected, key=lambda name: expected[name]["share"])
    now = expected[present(record)]["share"]
    then = expected[best]
    if now - then["share"] < WORTH_A_CHANGE:
        return (
            f"keep label.scope = {record['scope']}: about {now:.1%} of labels differ from their "
            "prompt's own baseline, and no other scope is clearly better"
        )
    scope = {"column": record["balance_column"], "global": "global"}.get(best, PROMPT)
    k = then["shrinkage"]
    shrinkage = "null" if k is None else f"{k:.2g}"
    few = f" (only {record['n']} rows)" if record["n"] < FEW_ROWS else ""
    return (
        f"set label.scope to {scope} and label.shrinkage to {shrinkage}: the share of labels that "
        f"differ from their prompt's own baseline is expected to fall from {now:.1%} to "
        f"{then['share']:.1%}{few}"
    )


def present(record: Mapping[str, Any]) -> str:
    """The name of the rule's own scope among the expected errors."""
    if record["scope"] == "global":
        return "global"
    return PROMPT if record["scope"] == PROMPT else "column"


def warnings(record: Mapping[str, Any]) -> Iterator[str]:
    """What a person should know before training on these labels, with numbers."""
    n, share = record["n"], record["positives_share"]
    if record["positives"] in (0, n):
        yield _one_class(record)
    elif record["ties_share"] - _own_ties(record) > MANY_TIES:
        yield _many_ties(record)
    elif not BALANCED[0] <= share <= BALANCED[1]:
        yield (
            f"{share:.1%} of the labels are positive: the smaller class has "
            f"{min(record['positives'], n - record['positives'])} rows of {n}"
        )
    prompts = record["diagnosed_prompts"]
    if record["diagnosed_rows"] == n and (n < FEW_ROWS or prompts < FEW_PROMPTS):
        yield (
            f"{n} rows of {prompts} prompts are few: the threshold lies between "
            f"{record['low']:.6g} and {record['high']:.6g}, and {flips(record)}"
        )
    elif record["flips_in_interval"] > MANY_FLIPS:
        yield f"the threshold is uncertain: {flips(record)}"
    yield from _group_warnings(record)
    for name, model in record["rewards"].items():
        if model["missing"]:
            yield (
                f"{model['missing']} rows have no {name} score "
                f"(label.missing = {record['missing']})"
            )
        if model.get("random_raters"):
            names = ", ".join(model["random_raters"])
            yield f"answers as if at random: {names}; import the ratings without them"
    shift = record["threshold_shift"]
    if shift and shift["outside_interval"]:
        yield shift_line(shift)


def _one_class(record: Mapping[str, Any]) -> str:
    """All labels are alike; what makes them two classes."""
    n, threshold, ties = record["n"], record["threshold"], record["ties"]
    same = f"all {n} labels are the same, and training needs both"
    if record["ties_share"] == 1:
        return f"{same}: all scores equal {threshold:.6g}; label.reward must be one that varies"
    if record["ties_share"] > 0:
        other = "negative" if ties == "positive" else "positive"
        return (
            f"{same}: {record['ties_share']:.1%} of the scores equal the threshold "
            f"{threshold:.6g}; set label.ties to {other}"
        )
    return (
        f"{same}: the threshold {threshold:.6g} lies outside the scores (mean "
        f"{record['score_mean']:.6g}); set label.estimator to percentile"
    )


def _many_ties(record: Mapping[str, Any]) -> str:
    """Scores of few values, such as stars or likes, with a heap at the threshold."""
    share, tied = record["positives_share"], record["ties_share"]
    positive = record["ties"] == "positive"
    other, then = ("negative", share - tied) if positive else ("positive", share + tied)
    warning = (
        f"{tied:.1%} of the scores equal their threshold and are all {record['ties']}, so "
        f"{share:.1%} of the labels are positive"
    )
    if 0 < then < 1 and abs(then - 0.5) < abs(share - 0.5):
        return f"{warning}; label.ties = {other} makes that {then:.1%}"
    if record["ordinal_thresholds"]:
        return f"{warning}; train.positives = 0.5 draws as many negatives"
    return f"{warning}; label.ordinal = [20, 40, 60, 80] grades scores of few values"


def _own_ties(record: Mapping[str, Any]) -> float:
    """Share of scores that equal their threshold since it is one of them: one a prompt."""
    if record["scope"] != PROMPT or record["estimator"] != "percentile":
        return 0.0
    return float(record["diagnosed_prompts"] / record["diagnosed_rows"])


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


def flips(record: Mapping[str, Any]) -> str:
    """How many labels would be others if the threshold were drawn again."""
    share = f"{record['flips_in_interval']:.1%} of labels flip"
    if record["scope"] == PROMPT and not record["proxy"]:
        return f"{share} when a prompt's images are drawn again"
    return f"{share} inside the interval"


def shift_line(shift: Mapping[str, Any]) -> str:
    """How far the threshold moved from an earlier run's."""
    where = "outside" if shift["outside_interval"] else "inside"
    return (
        f"the threshold moved by {shift['shift']:+.6g} from {shift['earlier']:.6g}, which lies "
        f"{where} today's interval; {shift['labels_changed_share']:.1%} of labels change"
    )
