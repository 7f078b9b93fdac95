from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tgo.pipeline.errors import InputError
from tgo.trainer.loggers import Loggers
from tgo.trainer.metrics import Statistics, summary
from tgo.trainer.objectives import Outcome, Terms
from tgo.trainer.speed import Speed
from tgo.trainer.train_log import TrainLog

BETA = 2.0


def statistics() -> Statistics:
    return Statistics(torch.device("cpu"))


def terms(ratio: list[float], target: list[float]) -> Terms:
    policy = torch.tensor(ratio)
    return Terms(
        policy - 1, torch.full_like(policy, -1.0), torch.tensor(target), torch.ones(len(target))
    )


def scalar(value: float) -> Tensor:
    return torch.tensor(value)


def outcome(given: Terms, loss: float | Tensor) -> Outcome:
    """The outcome TGO would return for these terms, with the loss set to a given mean."""
    losses = torch.as_tensor(loss).expand(len(given.target))
    if given.reference is None:
        return Outcome(losses, {})
    return Outcome(losses, {}, BETA, BETA * given.log_ratio, given.target)


def add(sums: Statistics, step: int, given: Terms, loss: float | Tensor, norm: Tensor) -> None:
    sums.add(step, given, outcome(given, loss), norm)


def test_a_line_holds_the_means_since_the_one_before() -> None:
    sums = statistics()
    distance = torch.tensor([0.1, 0.2, 0.3, 0.4])
    add(
        sums,
        1,
        terms([0.5, -0.5, 0.0, 1.0], [1, 0, 1, 0])._replace(prediction_distance=distance),
        0.2,
        scalar(3),
    )
    add(
        sums,
        2,
        terms([1.5, -1.0, -2.0, 0.5], [1, 0, 0, 1])._replace(prediction_distance=distance),
        0.4,
        scalar(5),
    )
    line = summary(sums.read())
    positive, negative = (0.5 + 0 + 1.5 + 0.5) / 4, (-0.5 + 1.0 - 1.0 - 2.0) / 4
    toward = BETA * torch.tensor([0.5, 0.5, 0.0, -1.0, 1.5, 1.0, 2.0, 0.5])
    expected = {
        "loss": 0.3,
        "grad_norm": 4,
        "log_likelihood_positive": positive - 1,
        "beta": BETA,
        "margin": BETA * (positive - negative),
        "accuracy": 6.5 / 8,
        "log_ratio_positive": positive,
        "log_ratio_negative": negative,
        "likelihood_change": positive,  # the reference's log-likelihood is -1
        "kl": 0.25,
        "kl_to_margin": 2 * BETA * 0.25 / (BETA * (positive - negative)),
        "grad_factor": torch.sigmoid(-toward).mean().item(),
        "saturation": 1 / 8,  # sigmoid(-4) alone is below 0.02
    }
    assert line == pytest.approx(expected)
    sums.reset()
    assert set(sums.read().values()) == {0}


def test_a_graded_target_pulls_by_its_distance_from_the_probability() -> None:
    sums = statistics()
    add(sums, 1, terms([0.0, 2.0], [0.25, 0.25]), 0.2, scalar(3))
    line = summary(sums.read())
    probability = torch.sigmoid(BETA * torch.tensor([0.0, 2.0]))
    assert line["grad_factor"] == pytest.approx((probability - 0.25).abs().mean().item())


def test_without_reference_there_is_no_margin() -> None:
    sums = statistics()
    add(sums, 1, terms([0.0], [1])._replace(reference=None), 0.2, scalar(3))
    assert summary(sums.read()) == pytest.approx(
        {"loss": 0.2, "grad_norm": 3, "log_likelihood_positive": -1}
    )


def test_without_a_sigmoid_the_log_ratio_tells_the_side() -> None:
    sums, given = statistics(), terms([0.5, 1.0], [1, 0])
    sums.add(1, given, Outcome(scalar(0.2).expand(2), {}), scalar(3))
    line = summary(sums.read())
    assert line["accuracy"] == 0.5
    assert "grad_factor" not in line


def test_a_pair_counts_once() -> None:
    sums, given = statistics(), terms([0.5, 1.0, 2.0, 1.0], [1, 0, 1, 0])
    logit = BETA * (given.log_ratio[0::2] - given.log_ratio[1::2])
    made = Outcome(scalar(0.2).expand(2), {}, BETA, logit, torch.ones(2))
    sums.add(1, given, made, scalar(3))
    line = summary(sums.read())
    assert line["accuracy"] == 0.5
    assert line["margin"] == pytest.approx(BETA * (1.25 - 1.0))


def test_a_class_without_samples_has_no_mean() -> None:
    sums = statistics()
    add(sums, 1, terms([0.5], [1]), 0.2, scalar(3))
    line = summary(sums.read())
    assert line["log_ratio_negative"] is None
    assert line["margin"] is None


def test_sums_continue_from_a_checkpoint_to_the_bit() -> None:
    whole, part = statistics(), statistics()
    for step in range(1, 9):
        if step == 5:  # a checkpoint keeps the sums as JSON
            kept = json.loads(json.dumps(list(part.read().values())))
            part = statistics()
            part.reset(kept)
        drawn = torch.randn(9, generator=torch.Generator().manual_seed(step))
        values = terms(drawn[:7].tolist(), [1, 0, 1, 1, 0, 0, 1])
        for sums in (whole, part):
            add(sums, step, values, drawn[7], drawn[8])
    assert whole.read() == part.read()


@pytest.mark.parametrize("which", ["loss", "grad_norm"])
def test_the_first_diverged_step_is_named(which: str) -> None:
    sums = statistics()
    for step, value in ((6, 1.0), (7, float("inf")), (8, float("nan"))):
        given = {"loss": scalar(1.0), "grad_norm": scalar(1.0)} | {which: scalar(value)}
        add(sums, step, terms([0.1], [1]), given["loss"], given["grad_norm"])
    reason = (
        rf"diverged at step 7: the loss was {'inf' if which == 'loss' else '1'} and the gradient"
    )
    with pytest.raises(InputError, match=reason):
        sums.read()


def test_a_log_begins_with_what_the_checkpoint_knew(tmp_path: Path) -> None:
    path = tmp_path / "reports" / "train_log.jsonl"
    log, speed = TrainLog(path, "", Loggers()), Speed(1e9, 1e14)
    for step in (1, 2, 3):
        log.write({"step": step}, 8, speed)
    assert [json.loads(line)["step"] for line in log.text.splitlines()] == [1, 2, 3]
    again = TrainLog(path, '{"step": 1}\n', Loggers())
    again.write({"step": 2}, 8, speed)
    assert again.text == '{"step": 1}\n{"step": 2}\n'
    timing = path.with_name("train_timing.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in timing] == [1, 2]
    assert json.loads(timing[0]).keys() == {
        "step",
        "seconds",
        "images_per_second",
        "tflops",
        "mfu",
    }
