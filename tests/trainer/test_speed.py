from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.trainer.miniature import Place, make_settings
from tests.trainer.test_train import make_learner
from tgo.trainer.speed import PEAKS, Speed, count_flops, peak


def test_a_multiply_add_is_two_and_attention_counts_on_a_cpu() -> None:
    left, right = torch.randn(3, 5), torch.randn(5, 7)
    assert count_flops(lambda: left @ right) == 2 * 3 * 5 * 7
    query = torch.randn(2, 4, 9, 8, requires_grad=True)
    products = 2 * (2 * 4 * 9 * 9 * 8) * 2  # with keys, then with values

    def attend() -> torch.Tensor:
        return nn.functional.scaled_dot_product_attention(query, query, query)

    assert count_flops(attend) == products
    assert count_flops(lambda: attend().sum().backward()) == pytest.approx(3.5 * products)


def test_a_step_is_its_forward_and_backward_passes(model: Path, place: Place) -> None:
    def flops(objective: str) -> float:
        learner, stream = make_learner(make_settings(model, objective=objective), place)
        return learner.flops(next(stream.batches()))

    with_reference, without = flops("tgo"), flops("rwr")
    # one more forward; a backward costs two, and a little less where no input needs a gradient
    assert 1.3 < with_reference / without < 1.4


def test_what_checkpointing_computes_again_counts_once(model: Path, place: Place) -> None:
    found = []
    for recompute in (False, True):
        settings = make_settings(model, gradient_checkpointing=recompute)
        learner, stream = make_learner(settings, place)
        batch = next(stream.batches())
        found.append(learner.flops(batch))
        learner.step(1, batch)
        assert learner._networks.network.is_gradient_checkpointing is recompute
    assert found[0] == found[1]


def test_counting_changes_nothing(model: Path, place: Place) -> None:
    settings = make_settings(model)
    learner, stream = make_learner(settings, place)
    counting, _ = make_learner(settings, place)
    for number, batch in enumerate(itertools.islice(stream.batches(), 2), start=1):
        counting.flops(batch)
        for one in (learner, counting):
            one.step(number, batch)
    assert learner.statistics.read() == counting.statistics.read()


def test_figures_of_a_line() -> None:
    assert Speed(2e12, 1e14).of(100, 4.0) == {
        "seconds": 4.0,
        "images_per_second": 25.0,
        "tflops": 50.0,
        "mfu": 0.5,
    }
    unknown = Speed(2e12, None).of(100, 4.0)
    assert (unknown["tflops"], unknown["mfu"]) == (50.0, None)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NVIDIA H200", PEAKS["H200"]),
        ("NVIDIA H100 80GB HBM3", PEAKS["H100"]),
        ("NVIDIA H100 PCIe", PEAKS["H100 PCIe"]),
        ("NVIDIA A100-SXM4-80GB", PEAKS["A100"]),
        ("NVIDIA A10", PEAKS["A10"]),
        ("NVIDIA L40S", PEAKS["L40S"]),
        ("NVIDIA GeForce RTX 4090", PEAKS["RTX 4090"]),
        ("Tesla V100-SXM2-16GB", PEAKS["V100"]),
        ("Something New", None),
    ],
)
def test_peaks_are_those_of_the_device(
    monkeypatch: pytest.MonkeyPatch, name: str, expected: float | None
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak(torch.device("cuda")) == expected
    assert peak(torch.device("cpu")) is None
