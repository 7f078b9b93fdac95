from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import norm

from tests.scores import make_rule, write_scored
from tgo.pipeline.config.label_settings import Label
from tgo.pipeline.errors import InputError
from tgo.pipeline.labelling import label
from tgo.pipeline.labelling.rule import targets, weights
from tgo.pipeline.labelling.scalar import Ranks
from tgo.pipeline.storage import shards

SCORES = hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(-9, 9, width=32))
RULES = {
    "raw": make_rule(weights="raw"),
    "standardised": make_rule(),
    "capped": make_rule(weights="capped", cap=1.5),
    "rank": make_rule(weights="rank"),
    "noise": make_rule(weights="noise", confidence=None, error=0.4),
    "none": make_rule(weights="none", confidence=None),
}


def weigh(scores: np.ndarray, rule: Label, threshold: float | None = None) -> np.ndarray:
    cut = float(np.sort(scores)[(len(scores) - 1) // 2]) if threshold is None else threshold
    usable = np.ones(len(scores), bool)
    std = float(scores.std(dtype=np.float64))
    return weights(scores, usable, cut, rule, std, Ranks(scores.copy()))


def test_every_kind_is_its_formula() -> None:
    scores = np.array([-2, -1, 0, 1, 3], np.float32)
    std, distance = scores.std(dtype=np.float64), np.array([2, 1, 0, 1, 3])
    expected = {
        "raw": 1 + 5 * distance,
        "standardised": 1 + 5 * distance / std,
        "capped": 1 + 5 * np.minimum(distance / std, 1.5),
        "rank": 1 + 5 * 2 * np.array([0.4, 0.2, 0, 0.2, 0.4]),
        "noise": norm.cdf(distance / std / 0.4),
        "none": np.ones(5),
    }
    for name, rule in RULES.items():
        np.testing.assert_allclose(weigh(scores, rule, 0.0), expected[name], rtol=1e-6)


def test_the_noisy_weight_is_how_often_the_label_is_right() -> None:
    generator = np.random.default_rng(0)
    seen = np.float32(0.7) + np.zeros(400_000, np.float32)  # one score, many truths around it
    right = (seen - 0.4 * generator.normal(size=400_000)) >= 0
    rule = RULES["noise"]
    (told,) = weights(seen[:1], np.ones(1, bool), 0.0, rule, 1.0)
    assert told == pytest.approx(right.mean(), abs=2e-3)


def test_every_row_may_have_an_error_of_its_own(tmp_path: Path) -> None:
    """An image that few rated weighs less than one that many did, at the same distance."""
    scores = np.array([1, 2, 3, 4, 5, 5], np.float32)
    errors = np.array([0.5, 0.5, 0.5, 0.5, 0.0, 1.5], np.float32)
    changes = {"weights": "noise", "confidence": None, "error": "rating_error"}
    folder = write_scored(tmp_path / "s", {"rating": scores}, rating_error=errors.tolist())
    rule = make_rule(reward="rating", **changes)
    for scope in ("global", "domain"):
        label.label_folder(
            folder, tmp_path / scope, rule.model_copy(update={"scope": scope}), seed=0
        )
        (path,) = shards.shard_paths(tmp_path / scope)
        found = shards.read_shard(path, ["weight", "threshold"]).to_pydict()
        distance = np.abs(scores - np.array(found["threshold"]))
        sure = np.where(errors > 0, norm.cdf(distance / np.maximum(errors, 1e-9)), 1.0)
        np.testing.assert_allclose(found["weight"], sure, rtol=1e-6)
    gone = write_scored(
        tmp_path / "n", {"rating": scores}, rating_error=[None, *errors.tolist()[1:]]
    )
    with pytest.raises(InputError, match="some ratings have no rating_error"):
        label.label_folder(gone, tmp_path / "l", rule, seed=0)


@given(SCORES, st.sampled_from(list(RULES)))
def test_weights_are_bounded_and_least_at_the_threshold(scores: np.ndarray, kind: str) -> None:
    found = weigh(scores, RULES[kind])
    cut = np.sort(scores)[(len(scores) - 1) // 2]
    low = 0.5 if kind == "noise" else 1.0
    assert (found >= low).all()
    assert (found[scores == cut] == low).all()
    if kind in ("capped", "rank", "noise"):
        assert found.max() <= {"capped": 8.5, "rank": 11.0, "noise": 1.0}[kind]
    order = np.argsort(np.abs(scores.astype(float) - cut), kind="stable")
    if kind != "rank":
        assert (np.diff(found[order]) >= 0).all()


@given(SCORES, st.sampled_from([0.25, 4.0]), st.integers(-8, 8))
def test_only_raw_weights_know_the_unit(scores: np.ndarray, scale: float, shift: int) -> None:
    scores = np.round(scores * 8) / 8  # products and sums below are exact
    moved = (scores * np.float32(scale) + np.float32(shift)).astype(np.float32)
    for kind in ("standardised", "capped", "rank", "noise", "none"):
        np.testing.assert_allclose(weigh(moved, RULES[kind]), weigh(scores, RULES[kind]), rtol=1e-5)


@given(SCORES)
def test_rank_weights_survive_any_increasing_transform(scores: np.ndarray) -> None:
    places = np.unique(scores, return_inverse=True)[1].astype(np.float32)
    np.testing.assert_array_equal(weigh(scores, RULES["rank"]), weigh(places, RULES["rank"]))


def test_targets_are_the_share_of_thresholds_passed() -> None:
    scores = np.array([0, 1, 2, 3, 4, np.nan], np.float32)
    usable = ~np.isnan(scores)
    cuts = np.array([[1], [2], [4]], np.float32)
    found = targets(scores, usable, cuts, "positive")
    np.testing.assert_allclose(found[:5], [0, 1 / 3, 2 / 3, 2 / 3, 1], rtol=1e-6)
    assert np.isnan(found[5])
    found = targets(scores, usable, cuts, "negative")
    np.testing.assert_allclose(found[:5], [0, 0, 1 / 3, 2 / 3, 2 / 3], rtol=1e-6)


@pytest.mark.parametrize("scope", ["global", "domain", "prompt"])
def test_ordinal_labels_have_a_column_of_their_own(tmp_path: Path, scope: str) -> None:
    scores = np.arange(40, dtype=np.float32)
    folder = write_scored(tmp_path / "s", scores, per_prompt=8, domain=["a", "b"] * 20)
    rule = make_rule(ordinal=[25.0, 50.0, 75.0], scope=scope)
    facts = label.label_folder(folder, tmp_path / "l", rule, seed=0)
    paths = shards.shard_paths(tmp_path / "l")
    table = pa.concat_tables(shards.read_shard(path) for path in paths)
    target = table["target"].to_numpy()
    if scope == "global":
        assert facts["ordinal_thresholds"] == [9.0, 19.0, 29.0]
        np.testing.assert_allclose(target, (np.searchsorted([9, 19, 29], scores, "right")) / 3)
    assert set(np.round(target * 3).astype(int)) == {0, 1, 2, 3}
    assert np.bincount(np.round(target * 3).astype(int)).max() <= 12
    assert table.schema.names == [*shards.LABELLED_SCHEMA.names, "target"]


DEGENERATE = {
    "one row": [2.5],
    "all equal": [2.5] * 6,
    "two values": [1.0, 1.0, 1.0, 2.0],
    "subnormal": [1e-45, 2e-45, 3e-45, 1e-40],
    "zeros": [0.0, -0.0, 0.0, -0.0],
    "outlier": [0.0, 1.0, 2.0, 1e30],
}
ESTIMATORS = {
    "percentile": {},
    "extreme": {"percentile": 100.0},
    "mean": {"estimator": "mean", "percentile": None},
    "otsu": {"estimator": "otsu", "percentile": None},
    "mixture": {"estimator": "mixture", "percentile": None},
    "fixed": {"estimator": "fixed", "percentile": None, "value": 1.5},
}


@pytest.mark.parametrize("scores", DEGENERATE.values(), ids=DEGENERATE)
@pytest.mark.parametrize("changes", ESTIMATORS.values(), ids=ESTIMATORS)
def test_every_rule_has_an_outcome_on_degenerate_scores(
    tmp_path: Path, scores: list[float], changes: dict, caplog: pytest.LogCaptureFixture
) -> None:
    values = np.array(scores, np.float32)
    folder = write_scored(tmp_path / "s", values)
    rules = RULES.values() if changes.get("estimator") is None else [RULES["standardised"]]
    for number, rule in enumerate(rules):
        target = tmp_path / f"l{number}"
        chosen = Label.model_validate(rule.model_dump() | changes)
        if 0 < max(scores) < 1e-30 and "value" in changes:  # a threshold 1e40 deviations away
            with pytest.raises(InputError, match="set it to capped or rank"):
                label.label_folder(folder, target, chosen, seed=0)
            return
        facts = label.label_folder(folder, target, chosen, seed=0)
        table = shards.read_shard(shards.shard_paths(target)[0])
        assert set(table["label"].to_pylist()) <= {0, 1}
        assert np.isfinite(table["weight"].to_numpy()).all()
        assert np.isfinite(facts["threshold"])
        assert facts["low"] <= facts["high"]
        assert facts["n"] == len(scores)
        one_class = facts["positives"] in (0, len(scores))
        assert any("labels are the same" in line for line in facts["warnings"]) == one_class
    assert "rows of" in caplog.text  # so few rows are warned of, with numbers


def test_weights_beyond_all_bounds_are_refused(tmp_path: Path) -> None:
    folder = write_scored(tmp_path / "s", np.array([-3e38, 0, 1, 3e38], np.float32))
    with pytest.raises(InputError, match=r"label\.weights = 'raw' gives weights beyond float32"):
        label.label_folder(folder, tmp_path / "l", RULES["raw"], seed=0)
    label.label_folder(folder, tmp_path / "l", RULES["standardised"], seed=0)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"percentile": None}, "label.percentile = null, but estimator percentile needs it"),
        ({"estimator": "mean"}, "label.percentile = 50 has an effect only with estimator perc"),
        ({"value": 1.0}, "label.value = 1 has an effect only with estimator fixed"),
        ({"weights": "noise"}, "label.error = null, but weights noise needs it"),
        (
            {"weights": "noise", "confidence": None, "error": "rating_error"},
            "label.error = 'rating_error' is the error of imported ratings",
        ),
        ({"error": "rating_error", "reward": "rating"}, "label.error = rating_error has an effect"),
        ({"weights": "none"}, "label.confidence = 5 has an effect only with weights standard"),
        ({"cap": 2.0}, "label.cap = 2 has an effect only with weights capped"),
        ({"missing": "available"}, "label.reward names one; set label.missing to exclude"),
        ({"shrinkage": 3.0}, "label.scope = 'global' has no groups; set it to null"),
        ({"ordinal": [50.0, 20.0]}, "must rise"),
        (
            {"estimator": "mean", "percentile": None, "ordinal": [20.0, 50.0]},
            "are percentiles, but label.estimator = 'mean'",
        ),
        (
            {"estimator": "oracle", "percentile": None, "oracle_beta": 1.0},
            "label.scope = 'global'; set label.scope to prompt",
        ),
        (
            {"estimator": "otsu", "percentile": None, "scope": "prompt"},
            "needs more scores than a prompt has",
        ),
        (
            {"estimator": "fixed", "percentile": None, "value": 1.0, "scope": "domain"},
            "label.scope = 'domain' has no effect on a fixed threshold; set it to global",
        ),
    ],
)
def test_settings_without_effect_are_refused_with_the_remedy(changes: dict, part: str) -> None:
    with pytest.raises(ValueError, match="label") as caught:
        make_rule(**changes)
    assert part in str(caught.value)
