"""threshold.json in words: what the report and the model card tell of stage two."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tgo.pipeline.config.label_settings import RATING
from tgo.pipeline.wording import TITLES, decimals_for, minus, percent

Facts = list[tuple[str, str]]


def scalar_title(facts: Mapping[str, Any]) -> str:
    """The scalar by its reward models' titles, the heaviest first: `2 PickScore + 1 HPSv2`."""
    rewards = facts["rewards"]
    if len(rewards) == 1:
        return TITLES[next(iter(rewards))]
    weights = {name: model["weight"] for name, model in rewards.items()}
    order = sorted(weights, key=lambda name: -weights[name])
    return " + ".join(f"{weights[name]:g} {TITLES[name]}" for name in order)


def threshold_facts(facts: Mapping[str, Any]) -> Facts:
    """The threshold and how far it can be trusted."""
    score = _scores(facts)
    weights = facts["weight_quantiles"]
    rows = [
        *_imported(facts),
        ("feedback", f"{scalar_title(facts)} ({facts['unit']})"),
        ("threshold", score(facts["threshold"])),
        ("estimator", _estimator(facts)),
        ("scope", _scope(facts)),
        ("95\u00a0% interval", f"{score(facts['low'])} to {score(facts['high'])}"),
        (
            "labels that change within that interval",
            percent(facts["flips_in_interval"]),
        ),
        ("share of label 1", percent(facts["positives_share"])),
    ]
    if facts["ordinal_thresholds"]:
        rows.append(("graded targets at", ", ".join(map(score, facts["ordinal_thresholds"]))))
    rows += [
        ("weights", _weights(facts)),
        ("weights, middle 90\u00a0%", f"{weights['p05']:.1f} to {weights['p95']:.1f}"),
        ("score variance between prompts", percent(facts["between_prompt_variance_share"])),
        ("labels another scope changes: prompt", percent(facts["disagreement_with_prompt"])),
        ("oracle baseline", percent(facts["disagreement_with_oracle"])),
        ("labelled images", f"{facts['n']:,}"),
        ("excluded images", f"{facts['excluded']:,}"),
        *_filter(facts),
    ]
    if facts["threshold_shift"]:
        shift = facts["threshold_shift"]
        rows.append(("shift since the earlier threshold", _scores(facts, "+")(shift["shift"])))
        rows.append(("labels that the shift changes", percent(shift["labels_changed_share"])))
    return rows


def _filter(facts: Mapping[str, Any]) -> Facts:
    """What `label.filter` asked of an image, and how many had it not."""
    if not facts["filter"]:
        return []
    words = {"min": "at least", "max": "at most"}
    limits = [
        f"{name} {words[end]} {value:g}"
        for name, both in facts["filter"].items()
        for end, value in both.items()
        if value is not None
    ]
    return [("of these by filter", f"{facts['filtered']:,}: kept {', '.join(limits)}")]


def _imported(facts: Mapping[str, Any]) -> Facts:
    """The table of ratings that people gave, where there was one."""
    found = facts["rewards"].get(RATING)
    if found is None:
        return []
    rows = [("ratings of people", str(found.get("model", "imported")))]
    for key, name in (
        ("images", "images"),
        ("ratings", found.get("counted", "ratings")),
        ("raters", "raters"),
    ):
        if found.get(key) is not None:
            rows.append((name, f"{found[key]:,}"))
    if found.get("aggregate"):
        rows.append(("several ratings of an image", str(found["aggregate"])))
    if found.get("alpha") is not None:
        rows.append(("agreement of raters (Krippendorff's alpha)", f"{found['alpha']:.2f}"))
    if found.get("random_raters"):
        rows.append(("answer as if at random", ", ".join(found["random_raters"])))
    rows.append(("checksum of the ratings", str(found["checkpoint_sha256"])[:12]))
    return rows


def group_facts(facts: Mapping[str, Any]) -> Facts:
    """Class balance by group, and each group's own threshold; empty for a single group."""
    groups = facts["groups"]
    if len(groups) < 2:
        return []
    score = _scores(facts)
    rows = []
    for name, group in groups.items():
        text = f"{percent(group['positives_share'])} of {group['n']:,} have label 1"
        if "threshold" in group:
            text += (
                f"; threshold {score(group['threshold'])} "
                f"({score(group['low'])} to {score(group['high'])})"
            )
        rows.append((f"{facts['balance_column']} {name}", text))
    if facts["groups_in_all"] > len(groups):
        rows.append(("not shown", f"{facts['groups_in_all'] - len(groups):,} smaller groups"))
    return rows


def agreement_facts(facts: Mapping[str, Any]) -> Facts:
    """On how many labels each two reward models agree, each by its own percentile."""
    rows = []
    for pair, share in facts["agreement"].items():
        one, other = (TITLES[name] for name in pair.split("/"))
        rows.append((f"{one} and {other}", percent(share, 0)))
    return rows


def _estimator(facts: Mapping[str, Any]) -> str:
    estimator = facts["estimator"]
    detail = {
        "percentile": f"percentile {facts['percentile'] or 0:g}, ties {facts['ties']}",
        "oracle": f"β log mean exp(s / β), β = {facts['oracle_beta'] or 0:g}",
    }
    source = f", from {facts['proxy']}" if facts["proxy"] else ""
    return detail.get(estimator, estimator) + source


def _scope(facts: Mapping[str, Any]) -> str:
    scope = facts["scope"]
    if facts["shrinkage"] is None:
        return str(scope)
    return f"{scope}, drawn to the global threshold as by {facts['shrinkage']:g} rows"


def _weights(facts: Mapping[str, Any]) -> str:
    parts = [str(facts["weights"])]
    for key, name in (("confidence", "c"), ("cap", "cap"), ("error", "error")):
        value = facts[key]
        if value is not None:
            parts.append(f"{name} = {value if isinstance(value, str) else f'{value:g}'}")
    return ", ".join(parts)


def _scores(facts: Mapping[str, Any], sign: str = "") -> Callable[[float], str]:
    """Scores as text, to about a hundredth of their spread."""
    decimals = decimals_for(facts["score_std"])
    return lambda value: minus(f"{value:{sign}.{decimals}f}")
