from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.scores import make_rule, write_scored
from tgo.pipeline.errors import InputError
from tgo.pipeline.labelling import diagnostics, label, labeller, reliability, subsample
from tgo.pipeline.storage import hashing


def scored(
    folder: Path, *, between: float, prompts: int = 150, images: int = 4, seed: int = 0
) -> Path:
    """Scores with a share `between` of their variance between prompts."""
    generator = np.random.default_rng(seed)
    own = np.repeat(generator.normal(size=prompts), images) * np.sqrt(between)
    scores = own + generator.normal(size=prompts * images) * np.sqrt(1 - between)
    return write_scored(
        folder, scores.astype(np.float32), per_prompt=images, rows_per_shard=10 * images
    )


def facts_of(tmp_path: Path, folder: Path, **changes: object) -> dict:
    return label.label_folder(folder, tmp_path / "l", make_rule(**changes), seed=0)


@pytest.mark.parametrize(
    ("changes", "centre", "deviation"),
    [
        ({}, 0.0, 1.2533),
        ({"estimator": "mean", "percentile": None}, 0.0, 1.0),
    ],
)
def test_intervals_have_the_width_that_theory_says(
    changes: dict, centre: float, deviation: float
) -> None:
    scores = np.random.default_rng(0).normal(size=4000).astype(np.float32)
    low, high = reliability.threshold_interval(
        scores, np.arange(4000), make_rule(**changes), seed=0
    )
    assert low < centre < high
    assert high - low == pytest.approx(2 * 1.96 * deviation / np.sqrt(4000), rel=0.2)


@pytest.mark.parametrize("estimator", ["otsu", "mixture"])
def test_fitted_thresholds_have_an_interval_around_them(tmp_path: Path, estimator: str) -> None:
    generator = np.random.default_rng(0)
    scores = (generator.normal(size=400) + 8 * (generator.random(400) < 0.4)).astype(np.float32)
    folder = write_scored(tmp_path / "s", scores, rows_per_shard=200)
    facts = facts_of(tmp_path, folder, estimator=estimator, percentile=None)
    assert 2 < facts["low"] <= facts["threshold"] <= facts["high"] < 6
    assert facts["positives_share"] == pytest.approx(0.4, abs=0.05)


def test_a_samples_interval_is_scaled_to_all_rows() -> None:
    scores = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    rule, groups = make_rule(), np.arange(1000)
    low, high = reliability.threshold_interval(scores, groups, rule, seed=0)
    small_low, small_high = reliability.threshold_interval(
        scores, groups, rule, seed=0, rows=100_000
    )
    assert small_high - small_low == pytest.approx((high - low) / 10, rel=1e-4)


def test_the_share_of_flips_is_that_of_rows_between_the_ends(tmp_path: Path) -> None:
    scores = np.random.default_rng(0).normal(size=300).astype(np.float32)
    facts = facts_of(tmp_path, write_scored(tmp_path / "s", scores, rows_per_shard=100))
    low, high = np.float32(facts["low"]), np.float32(facts["high"])
    assert facts["flips_in_interval"] == ((scores >= low) & (scores < high)).mean()


@pytest.mark.parametrize("between", [0.05, 0.4, 0.8])
@pytest.mark.parametrize("images", [4, 16])
def test_expected_errors_are_those_of_a_simulation(between: float, images: int) -> None:
    generator = np.random.default_rng(0)
    baseline = generator.normal(size=(20_000, 1)) * np.sqrt(between)
    scores = baseline + generator.normal(size=(20_000, images)) * np.sqrt(1 - between)
    right = scores >= baseline
    own = scores.mean(axis=1, keepdims=True)
    k = (1 - between) / between
    thresholds = {
        "global": 0.0,
        "prompt": own,
        "prompt, shrunken": images * own / (images + k),
    }
    told = reliability.expected_errors(between, 0.0, images)
    for name, threshold in thresholds.items():
        assert told[name][0] == pytest.approx(((scores >= threshold) != right).mean(), abs=0.005)
    assert told["prompt, shrunken"][1] == pytest.approx(k)
    assert min(told.values(), key=lambda error: error[0]) == told["prompt, shrunken"]


def test_advice_follows_the_variance_between_prompts(tmp_path: Path) -> None:
    alike = facts_of(tmp_path / "a", scored(tmp_path / "a/s", between=0.02))
    assert alike["recommendation"].startswith("keep label.scope = global: about")
    folder = scored(tmp_path / "b/s", between=0.7)
    apart = facts_of(tmp_path / "b", folder)
    assert apart["recommendation"].startswith("set label.scope to prompt and label.shrinkage to 0.")
    assert apart["disagreement_with_prompt"] > 0.2
    assert apart["disagreement_with_oracle"] > 0.2
    k = float(apart["recommendation"].split("shrinkage to ")[1].split(":")[0])
    followed = facts_of(tmp_path / "c", folder, scope="prompt", shrinkage=k)
    assert followed["recommendation"].startswith("keep label.scope = prompt")


def test_advice_needs_several_images_of_a_prompt(tmp_path: Path) -> None:
    folder = write_scored(tmp_path / "s", np.arange(40, dtype=np.float32), per_prompt=1)
    facts = facts_of(tmp_path, folder)
    assert "cannot be estimated without several images" in facts["recommendation"]
    assert facts["between_prompt_variance_share"] is None
    assert facts["disagreement_with_oracle"] is None


def test_advice_can_be_a_threshold_per_domain(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    domain = np.arange(800) // 4 % 2
    scores = (generator.normal(size=800) + 4 * domain).astype(np.float32)
    folder = write_scored(
        tmp_path / "s", scores, per_prompt=4, domain=[f"d{d}" for d in domain], rows_per_shard=200
    )
    facts = facts_of(tmp_path, folder)
    assert facts["recommendation"].startswith("set label.scope to domain and label.shrinkage to nu")


def test_little_and_unbalanced_data_are_warned_of_with_numbers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scores = np.random.default_rng(0).normal(size=60).astype(np.float32)
    facts = facts_of(tmp_path, write_scored(tmp_path / "s", scores), percentile=95.0)
    few, uneven = facts["warnings"][1], facts["warnings"][0]
    assert "60 rows of 30 prompts are few: the threshold lies between" in few
    assert f"{facts['flips_in_interval']:.1%} of labels flip" in few
    assert uneven == (
        f"{facts['positives_share']:.1%} of the labels are positive: the smaller class has "
        f"{facts['positives']} rows of 60"
    )
    assert len(caplog.records) == len(facts["warnings"])


def test_the_shift_is_measured_against_an_earlier_threshold(tmp_path: Path) -> None:
    scores = np.random.default_rng(0).normal(size=400).astype(np.float32)
    folder = write_scored(tmp_path / "s", scores, rows_per_shard=400)
    first = facts_of(tmp_path, folder)
    assert first["threshold_shift"] is None
    record = tmp_path / "before.json"
    record.write_text(json.dumps({**first, "threshold": first["threshold"] + 0.5}))
    shift = facts_of(tmp_path, folder, earlier=str(record))["threshold_shift"]
    assert shift["shift"] == pytest.approx(-0.5, rel=1e-6)
    assert shift["shift_in_std"] == pytest.approx(-0.5 / first["score_std"])
    assert shift["outside_interval"]
    now, then = np.float32(first["threshold"]), np.float32(first["threshold"] + 0.5)
    assert shift["labels_changed_share"] == ((scores >= now) & (scores < then)).mean()


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (None, "is missing; name an earlier threshold.json"),
        ("{", "is damaged .*label.earlier"),
        ('{"reward": "clip"}', "unit: Field required; name an earlier"),
        ('{"reward": "hpsv2", "unit": "cosine", "threshold": 1}', "its reward is 'hpsv2', not 'cl"),
        ('{"reward": "clip", "unit": "x100", "threshold": 1}', "its unit is 'x100', not 'cosine'"),
    ],
)
def test_an_earlier_threshold_of_something_else_is_refused(
    tmp_path: Path, text: str | None, part: str
) -> None:
    folder = write_scored(tmp_path / "s", np.arange(12, dtype=np.float32))
    record = tmp_path / "before.json"
    if text is not None:
        record.write_text(text)
    with pytest.raises(InputError, match=part):
        facts_of(tmp_path, folder, earlier=str(record))


def test_agreement_of_reward_models_on_labels(tmp_path: Path) -> None:
    scores = np.random.default_rng(0).normal(size=200).astype(np.float32)
    rewards = {"clip": scores, "hpsv2": np.exp(scores), "aesthetic": -scores}
    folder = write_scored(tmp_path / "s", rewards, rows_per_shard=100)
    found = facts_of(tmp_path, folder)["agreement"]
    assert found["clip/hpsv2"] == 1.0
    assert found["clip/aesthetic"] == pytest.approx(0.01, abs=0.011)  # ties alone


def test_a_sample_is_whole_prompts_and_the_same_in_any_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subsample, "PROMPTS", 10)
    monkeypatch.setattr(subsample, "ROWS", 30)
    scores = np.random.default_rng(0).normal(size=600).astype(np.float32)
    found = []
    for name, size, order in (
        ("a", 600, np.arange(600)),
        ("b", 37, np.random.default_rng(1).permutation(600)),
    ):
        folder = write_scored(
            tmp_path / name, scores, per_prompt=4, rows_per_shard=size, order=order
        )
        found.append(subsample.draw(labeller.fit(folder, make_rule()), "domain", threads=1))
    assert found[0].prompts == 7  # 7 prompts of 4 rows fit into a sample of 30
    assert (np.bincount(found[0].groups) == 4).all()
    np.testing.assert_array_equal(found[0].prompt, found[1].prompt)
    np.testing.assert_array_equal(found[0].scores, found[1].scores)


def test_a_diagnosis_of_a_sample_is_scaled_and_said_to_be_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = scored(tmp_path / "s", between=0.3, prompts=400)
    whole = facts_of(tmp_path, folder)
    monkeypatch.setattr(subsample, "PROMPTS", 100)
    part = facts_of(tmp_path, folder)
    assert (whole["diagnosed_rows"], part["diagnosed_rows"]) == (1600, 400)
    assert part["threshold"] == whole["threshold"]
    assert part["low"] < part["threshold"] < part["high"]
    width = whole["high"] - whole["low"]
    assert part["high"] - part["low"] == pytest.approx(width, rel=0.5)
    assert not any("are few" in line for line in part["warnings"])


@given(st.lists(st.text(max_size=12), min_size=1, max_size=20))
def test_hashes_depend_on_the_text_alone(texts: list[str]) -> None:
    found = hashing.hash_strings(pa.array(texts))
    alone = [int(hashing.hash_strings(pa.array([text]))[0]) for text in texts]
    assert found.tolist() == alone
    assert len(set(alone)) == len(set(texts))
    sliced = hashing.hash_strings(pa.array(["x", *texts])[1:])
    np.testing.assert_array_equal(sliced, found)


def test_every_figure_survives_a_shuffle(tmp_path: Path) -> None:
    scores = np.random.default_rng(0).normal(size=240).astype(np.float32)
    found = []
    for name, order in (("a", np.arange(240)), ("b", np.random.default_rng(2).permutation(240))):
        folder = write_scored(
            tmp_path / name / "s", scores, per_prompt=3, order=order, rows_per_shard=50
        )
        found.append(diagnostics.diagnose(labeller.fit(folder, make_rule()), seed=0))
    assert found[0].overall == found[1].overall
    for name in ("between_prompts", "versus_prompt", "versus_oracle", "oracle_beta"):
        assert getattr(found[0], name) == getattr(found[1], name)
