from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.scores import make_rule, write_scored
from tgo.pipeline.errors import InputError
from tgo.pipeline.labelling import label, labeller, thresholds
from tgo.pipeline.labelling.estimators import gathered
from tgo.pipeline.storage import shards


def labelled(tmp_path: Path, folder: Path, **changes: object) -> tuple[dict, pa.Table]:
    facts = label.label_folder(folder, tmp_path / "labelled", make_rule(**changes), seed=0)
    paths = shards.shard_paths(tmp_path / "labelled")
    return facts, pa.concat_tables(shards.read_shard(path) for path in paths)


def test_every_value_of_a_column_has_its_own_threshold(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    domain = np.array(["photo", "anime"])[np.arange(400) % 2]
    scores = (generator.normal(size=400) + 3 * (domain == "photo")).astype(np.float32)
    folder = write_scored(tmp_path / "s", scores, domain=domain.tolist(), rows_per_shard=90)
    facts, table = labelled(tmp_path, folder, scope="domain")
    marks, cuts = table["label"].to_numpy(), table["threshold"].to_numpy()
    for name in ("photo", "anime"):
        own = domain == name
        assert marks[own].mean() == 0.5
        assert set(cuts[own].tolist()) == {facts["groups"][name]["threshold"]}
        group = facts["groups"][name]
        assert group["low"] <= group["threshold"] <= group["high"]
        assert (group["n"], group["positives_share"], group["own"]) == (200, 0.5, True)
    assert facts["between_group_variance_share"] > 0.5
    everywhere, _ = labelled(tmp_path, folder)
    assert any(
        "has one class almost alone" in line or "have one class" in line
        for line in everywhere["warnings"]
    )
    assert everywhere["groups"]["photo"]["positives_share"] > 0.8


@pytest.mark.parametrize("column", ["rater", "year"])
def test_any_column_can_be_the_scope_and_null_is_a_group(tmp_path: Path, column: str) -> None:
    values: list[Any] = [7, 8, None] * 20 if column == "year" else ["ann", "bob", None] * 20
    scores = np.arange(60, dtype=np.float32)
    columns: dict[str, Any] = {column: values}
    folder = write_scored(tmp_path / "s", scores, **columns)
    facts, _ = labelled(tmp_path, folder, scope=column)
    assert set(facts["groups"]) == {str(values[0]), str(values[1]), "(none)"}
    assert all(group["positives_share"] == 0.5 for group in facts["groups"].values())


def test_columns_that_cannot_be_a_scope_are_refused(tmp_path: Path) -> None:
    folder = write_scored(tmp_path / "s", np.arange(12, dtype=np.float32))
    with pytest.raises(InputError, match=r"label\.scope = 'clip' holds float"):
        labeller.fit(folder, make_rule(scope="clip"))
    with pytest.raises(InputError, match=r"no column 'style'; label\.scope is global, prompt"):
        labeller.fit(folder, make_rule(scope="style"))


@given(
    hnp.arrays(np.float32, st.integers(2, 40), elements=st.floats(-9, 9, width=32), unique=True),
    st.integers(2, 7),
    st.sampled_from(["positive", "negative"]),
)
def test_thresholds_per_prompt_balance_every_prompt(
    scores: np.ndarray, per_prompt: int, ties: str
) -> None:
    group = np.arange(len(scores)) // per_prompt
    count = int(group.max()) + 1
    own = gathered(scores, group, count, make_rule(scope="prompt", ties=ties)).values[0][group]
    positive = scores >= own if ties == "positive" else scores > own
    sizes = np.bincount(group)
    assert (np.abs(np.bincount(group, positive) - sizes / 2) <= 0.5).all()


def test_prompts_are_balanced_in_the_files_too(tmp_path: Path) -> None:
    scores = np.random.default_rng(0).normal(size=48).astype(np.float32)
    folder = write_scored(tmp_path / "s", scores, per_prompt=4, rows_per_shard=12)
    facts, table = labelled(tmp_path, folder, scope="prompt")
    marks = table["label"].to_numpy().reshape(-1, 4)
    assert (marks.sum(axis=1) == 2).all()
    assert facts["flips_in_interval"] > 0.1
    assert facts["disagreement_with_prompt"] > 0


@pytest.mark.parametrize("estimator", ["percentile", "mean", "oracle"])
def test_prompts_split_over_shards_are_put_together(tmp_path: Path, estimator: str) -> None:
    scores = np.random.default_rng(0).normal(size=60).astype(np.float32)
    rule = {"scope": "prompt", "estimator": estimator, "shrinkage": 2.0}
    rule |= {"percentile": 50.0 if estimator == "percentile" else None}
    rule |= {"oracle_beta": 0.5 if estimator == "oracle" else None}
    whole = write_scored(tmp_path / "whole", scores, per_prompt=4, rows_per_shard=20)
    _, expected = labelled(tmp_path / "a", whole, **rule)
    order = np.random.default_rng(1).permutation(60)
    mixed = write_scored(tmp_path / "mixed", scores, per_prompt=4, rows_per_shard=7, order=order)
    _, found = labelled(tmp_path / "b", mixed, **rule)
    assert found.sort_by("id").equals(expected.sort_by("id").cast(found.schema))


def test_one_image_a_prompt_is_refused_with_the_remedy(tmp_path: Path) -> None:
    folder = write_scored(tmp_path / "s", np.arange(12, dtype=np.float32), per_prompt=1)
    with pytest.raises(
        InputError, match=r"raise score\.images_per_prompt to 4 .* global or domain"
    ):
        labeller.fit(folder, make_rule(scope="prompt"))


def test_a_lone_image_takes_the_global_threshold(tmp_path: Path) -> None:
    scores = np.array([0, 1, 2, 3, 10], np.float32)
    folder = write_scored(tmp_path / "s", scores)
    facts, table = labelled(tmp_path, folder, scope="prompt")
    assert table["threshold"].to_pylist() == [1, 1, 3, 3, facts["threshold"]]


def test_groups_are_shrunk_to_the_global_threshold_by_their_size(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    domain = ["big"] * 90 + ["small"] * 10
    scores = (generator.normal(size=100) + 5 * (np.arange(100) >= 90)).astype(np.float32)
    folder = write_scored(tmp_path / "s", scores, domain=domain)
    own, _ = labelled(tmp_path / "a", folder, scope="domain")
    shrunk, _ = labelled(tmp_path / "b", folder, scope="domain", shrinkage=10.0)
    t, k = own["threshold"], 10
    for name, n in (("big", 90), ("small", 10)):
        alone = own["groups"][name]["threshold"]
        assert shrunk["groups"][name]["threshold"] == pytest.approx((n * alone + k * t) / (n + k))
    far, _ = labelled(tmp_path / "c", folder, scope="domain", shrinkage=1e9)
    assert far["groups"]["small"]["threshold"] == pytest.approx(t, rel=1e-5)


def test_the_oracle_is_its_formula(tmp_path: Path) -> None:
    scores = np.random.default_rng(0).normal(21, 1, 24).astype(np.float32)
    folder = write_scored(tmp_path / "s", scores, per_prompt=6)
    rule = {"scope": "prompt", "estimator": "oracle", "percentile": None, "oracle_beta": 0.3}
    facts, table = labelled(tmp_path, folder, **rule)
    by_prompt = scores.astype(float).reshape(4, 6)
    expected = 0.3 * np.log(np.exp(by_prompt / 0.3).mean(axis=1))
    np.testing.assert_allclose(table["threshold"].to_numpy()[::6], expected, rtol=1e-6)
    whole = 0.3 * np.log(np.exp(scores.astype(float) / 0.3).mean())
    assert facts["threshold"] == pytest.approx(whole, rel=1e-6)
    assert facts["low"] <= facts["threshold"] <= facts["high"]


def test_tiny_beta_overflows_nothing_and_nears_the_maximum() -> None:
    scores = np.array([1, 5, 3, 400, -400, 2], np.float32)
    rule = make_rule(scope="prompt", estimator="oracle", percentile=None, oracle_beta=1e-3)
    found = gathered(scores, np.array([0, 0, 0, 1, 1, 1]), 2, rule).values[0]
    np.testing.assert_allclose(found, [5, 400], atol=2e-3)


def test_the_threshold_can_come_from_a_proxy_set(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    scores = generator.normal(size=60).astype(np.float32)
    folder = write_scored(tmp_path / "s", scores, domain=["a", "b"] * 30)
    reference = generator.normal(1, 1, 90).astype(np.float32)
    proxy = write_scored(tmp_path / "p", reference, domain=["a", "a", "c"] * 30, per_prompt=3)
    facts, _ = labelled(tmp_path / "a", folder, proxy=str(proxy))
    assert facts["threshold"] == np.sort(reference)[44]
    assert facts["low"] <= facts["threshold"] <= facts["high"]
    assert facts["positives"] == (scores >= np.float32(facts["threshold"])).sum()
    facts, _ = labelled(tmp_path / "b", folder, proxy=str(proxy), scope="domain")
    own = np.sort(reference[np.arange(90) % 3 < 2])
    assert facts["groups"]["a"]["threshold"] == own[30]
    assert facts["groups"]["b"]["threshold"] == facts["threshold"]  # the proxy set has no b
    assert not facts["groups"]["b"]["own"]
    facts, table = labelled(tmp_path / "c", folder, proxy=str(proxy), scope="prompt")
    assert table["threshold"][0].as_py() == np.sort(reference[:3])[1]
    assert table["threshold"][59].as_py() == np.sort(reference[87:])[1]


def test_a_proxy_without_a_usable_row_is_named(tmp_path: Path) -> None:
    folder = write_scored(tmp_path / "s", np.arange(6, dtype=np.float32))
    proxy = write_scored(tmp_path / "p", np.zeros(6, np.float32), status=["failed"] * 6)
    with pytest.raises(InputError, match=r"p: has no usable row; name a folder .* label\.proxy"):
        labeller.fit(folder, make_rule(proxy=str(proxy)))


def test_a_fixed_number_is_the_threshold(tmp_path: Path) -> None:
    folder = write_scored(tmp_path / "s", np.arange(12, dtype=np.float32))
    facts, table = labelled(
        tmp_path, folder, estimator="fixed", percentile=None, value=3.5, weights="raw"
    )
    assert (facts["threshold"], facts["low"], facts["high"]) == (3.5, 3.5, 3.5)
    assert table["label"].to_pylist() == [0] * 4 + [1] * 8
    assert facts["flips_in_interval"] == 0


@pytest.mark.parametrize("scope", ["global", "domain", "prompt"])
@pytest.mark.parametrize("estimator", ["percentile", "mean", "otsu", "mixture"])
def test_order_and_number_of_shards_change_nothing(
    tmp_path: Path, scope: str, estimator: str
) -> None:
    if scope == "prompt" and estimator in ("otsu", "mixture"):
        return
    scores = np.random.default_rng(0).normal(size=80).astype(np.float32)
    rule: dict[str, Any] = {"scope": scope, "estimator": estimator}
    rule |= {"percentile": 40.0 if estimator == "percentile" else None}
    domain = [f"d{row // 8 % 3}" for row in range(80)]
    found = []
    for name, order, size in (("a", np.arange(80), 80), ("b", np.arange(80)[::-1], 9)):
        folder = write_scored(
            tmp_path / name / "s", scores, order=order, rows_per_shard=size, domain=domain
        )
        facts, table = labelled(tmp_path / name, folder, **rule)
        found.append((facts, table.sort_by("id").combine_chunks()))
    for facts, _ in found:
        facts.pop("identity")  # names the shards
    assert found[0][0] == found[1][0]
    assert found[0][1].equals(found[1][1])


def test_threads_change_nothing(tmp_path: Path) -> None:
    scores = np.random.default_rng(0).normal(size=300).astype(np.float32)
    folder = write_scored(tmp_path / "s", scores, rows_per_shard=30)
    rule, found = make_rule(), []
    for threads in (1, 3):
        target = tmp_path / f"l{threads}"
        facts = label.label_folder(folder, target, rule, seed=0, threads=threads)
        found.append((facts, [path.read_bytes() for path in shards.shard_paths(target)]))
    assert found[0] == found[1]


def test_data_too_large_to_hold_gives_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tgo.pipeline.labelling import score_reader

    scores = np.random.default_rng(0).normal(size=100).astype(np.float32)
    folder = write_scored(tmp_path / "s", scores, rows_per_shard=30, domain=["a", "b"] * 50)
    held, _ = labelled(tmp_path / "a", folder, scope="domain")
    monkeypatch.setattr(score_reader, "HELD_ROWS", 10)
    assert labelled(tmp_path / "b", folder, scope="domain")[0] == held


def test_the_bounds_of_the_table_of_prompts() -> None:
    none = thresholds.PromptThresholds(
        pa.array([], pa.string()), gathered(*_nothing(), make_rule()), False
    )
    own = gathered(np.ones(2, np.float32), np.zeros(2, np.int64), 1, make_rule())
    assert none.insert(pa.array(["a"]), own) is own


def _nothing() -> tuple[np.ndarray, np.ndarray, int]:
    return np.empty(0, np.float32), np.empty(0, np.int64), 0
