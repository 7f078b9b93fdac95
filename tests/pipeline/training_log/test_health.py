from __future__ import annotations

from typing import Any

import pytest

from tgo.pipeline.config.train_settings import Collapse
from tgo.pipeline.training_log import health

GOOD: dict[str, Any] = {
    "loss": 0.6,
    "grad_norm": 1.0,
    "margin": 0.4,
    "accuracy": 0.6,
    "grad_factor": 0.45,
    "saturation": 0.01,
    "likelihood_change": 0.01,
    "kl_to_margin": 0.3,
    "log_likelihood_positive": -100.0,
}
LIMITS = Collapse(likelihood_fall=0.2, accuracy=0.3, held_out_rise=0.1, patience=2)


def lines(*changes: dict[str, Any]) -> list[dict[str, Any]]:
    return [GOOD | change for change in changes]


def test_a_good_line_has_nothing_outside_its_band() -> None:
    assert health.unhealthy(lines({}, {}, {}, {})) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("margin", -0.1),
        ("accuracy", 0.45),
        ("accuracy", 0.99),
        ("grad_factor", 0.01),
        ("saturation", 0.6),
        ("likelihood_change", -0.05),
        ("kl_to_margin", 2.6),
        ("grad_norm", 11.0),
    ],
)
def test_what_lies_outside_is_named_with_a_remark(key: str, value: float) -> None:
    found = lines({}, {}, {}, {key: value})
    assert health.unhealthy(found) == [key]
    told = {verdict.title: verdict for verdict in health.verdicts(found)}
    assert told[health.BANDS[key].title].remark
    assert [verdict.title for verdict in told.values() if not verdict.healthy] == [
        health.BANDS[key].title
    ]


def test_no_spike_or_drift_is_told_while_a_run_warms_up() -> None:
    assert health.unhealthy(lines({}, {"grad_norm": 99.0, "kl_to_margin": 9.0})) == []


# lines of real runs on the shards of the default run; what became of them is in docs/training.md
RUNS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "the default's worst line": (
        [],
        {"margin": 1.57, "likelihood_change": -0.021, "kl_to_margin": 1.827, "accuracy": 0.675,
         "grad_factor": 0.381, "saturation": 0.087},
    ),
    "the default's last line": (
        [],
        {"margin": 3.05, "likelihood_change": 0.021, "kl_to_margin": 1.24, "accuracy": 0.766,
         "grad_factor": 0.292, "saturation": 0.159},
    ),
    "KTO, worse than the base model": (
        ["saturation", "likelihood_change"],
        {"margin": 8.8, "likelihood_change": -0.056, "kl_to_margin": 1.5, "accuracy": 0.741,
         "grad_factor": 0.3, "saturation": 0.505},
    ),
    "learning rate 1e-3, no gain": (
        ["saturation", "likelihood_change", "kl_to_margin"],
        {"margin": 16.5, "likelihood_change": -0.046, "kl_to_margin": 2.606, "accuracy": 0.613,
         "grad_factor": 0.394, "saturation": 0.816},
    ),
    "learning rate 1e-2, destroyed": (
        ["saturation", "likelihood_change", "kl_to_margin"],
        {"margin": 1.42, "likelihood_change": -6.66, "kl_to_margin": 203.5, "accuracy": 0.514,
         "grad_factor": 0.486, "saturation": 1.0},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_the_bands_tell_runs_that_gained_from_runs_that_did_not(name: str) -> None:
    expected, last = RUNS[name]
    assert health.unhealthy(lines({}, {}, {}, last)) == expected
    destroyed = last["likelihood_change"] < -1
    assert (health.collapsed(lines(last, last), LIMITS) is not None) == destroyed


def test_what_a_line_lacks_is_left_out() -> None:
    bare = {"loss": 1.0, "grad_norm": 1.0, "margin": None}
    assert health.judged([bare]) == {}
    assert health.verdicts([]) == []


def test_a_collapse_needs_several_lines_in_a_row() -> None:
    fallen = {"likelihood_change": -0.25}
    assert health.collapsed(lines({}, fallen), LIMITS) is None
    assert health.collapsed(lines(fallen, {}, fallen), LIMITS) is None
    assert health.collapsed(lines({}, fallen, fallen), LIMITS) == (
        "the likelihood of positives fell by 25%"
    )
    by_heart = [{"held_out_loss_change": value} for value in (-0.1, -0.25, -0.14, -0.13)]
    assert health.collapsed(lines(*by_heart[:3]), LIMITS) is None
    assert health.collapsed(lines(*by_heart), LIMITS) == (
        "the loss on held-out prompts lies 12% above its lowest"
    )
    assert health.unhealthy(lines(*by_heart)) == ["held_out_rise"]
    turned = {"accuracy": 0.2}
    assert health.collapsed(lines(turned, turned), LIMITS) == (
        "only 20% of samples lie on the side of their label"
    )


def test_without_a_reference_the_first_line_is_the_measure() -> None:
    found = [
        {"grad_norm": 1.0, "log_likelihood_positive": value} for value in (-100.0, -130.0, -125.0)
    ]
    assert health.judged(found)["likelihood_change"] == -0.25
    assert health.collapsed(found, LIMITS) == "the likelihood of positives fell by 25%"


def test_limits_that_are_null_never_stop() -> None:
    never = Collapse(likelihood_fall=None, accuracy=None, held_out_rise=None, patience=1)
    worst = lines({"likelihood_change": -9.0, "accuracy": 0.0})
    assert health.collapsed(worst, never) is None
