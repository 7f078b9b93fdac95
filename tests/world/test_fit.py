"""The builder's training loop: a killed run continues to the same weights."""

from __future__ import annotations

from multiprocessing.managers import DictProxy
from pathlib import Path

import numpy as np
import pytest
import torch

from tgo.data.world import fit as fit_module
from tgo.data.world.fit import fit


class StopError(Exception):
    pass


def train(
    folder: Path, monkeypatch: pytest.MonkeyPatch, steps: int, stop_at: int | None = None
) -> torch.nn.Linear:
    monkeypatch.setattr(fit_module, "BUILD", folder)
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    calls: list[float] = []

    def loss(rng: np.random.Generator, noise: torch.Generator) -> torch.Tensor:
        if stop_at is not None and len(calls) == stop_at:
            raise StopError
        calls.append(rng.random())
        inputs = torch.randn(8, 3, generator=noise)
        return (model(inputs) - inputs.sum(1, keepdim=True)).square().mean()

    fit("line", model, loss, steps=steps, learning_rate=0.1, average=0.9, save_every_seconds=0)
    return model


def test_a_stopped_run_continues_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(tmp_path / "whole", monkeypatch, steps=40)
    with pytest.raises(StopError):
        train(tmp_path / "parts", monkeypatch, steps=40, stop_at=17)
    resumed = train(tmp_path / "parts", monkeypatch, steps=40)
    assert torch.equal(whole.weight, resumed.weight)
    assert not torch.equal(whole.weight, torch.zeros_like(whole.weight))


def _rank(rank: int, folder: Path, results: DictProxy[int, float]) -> None:
    fit_module.BUILD = folder
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )
    model = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.zero_()
    wanted = (1.0, 3.0)[
        rank
    ]  # each process has another target: averaged gradients lead to the middle

    def loss(rng: np.random.Generator, noise: torch.Generator) -> torch.Tensor:
        return (model.weight - wanted).square().mean() * 0.5

    fit("ranks", model, loss, steps=400, learning_rate=0.05, weight_decay=0.0)
    results[rank] = model.weight.item()


def test_ranks_average_their_gradients(tmp_path: Path) -> None:
    with torch.multiprocessing.Manager() as manager:
        results = manager.dict()
        torch.multiprocessing.spawn(_rank, args=(tmp_path, results), nprocs=2)
        assert results[0] == results[1] == pytest.approx(2.0, abs=0.02)
