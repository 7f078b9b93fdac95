"""`train.compile`, with graphs captured and run as they are: generating code takes minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer import parallel
from tests.trainer.miniature import SIZES, Place, make_settings, write_rows
from tests.trainer.test_parallel import LORA, assert_alike
from tests.trainer.test_samples import sampling
from tests.trainer.test_train import CrashError, crash_at, make_learner, run, same

SHORT: dict[str, Any] = {"steps": 5, "checkpoint_every": 2, "log_every": 2}


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The graphs that are compiled, as they come."""
    found: list[Any] = []
    monkeypatch.setattr(torch.nn.Module, "compile", parallel.capturing(found))
    torch.compiler.reset()
    return found


@pytest.mark.parametrize("lora", [None, LORA])
def test_compiled_runs_learn_the_same_and_resume_to_the_bit(
    model: Path,
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    captured: list[Any],
    lora: dict[str, Any] | None,
) -> None:
    options: dict[str, Any] = SHORT | {"lora": lora}
    eager = run(make_settings(model, **options), place, "eager")
    assert not captured
    settings = sampling(model, place.root, every=2, compile=True, **options)
    whole = run(settings, place, "whole")
    assert len(captured) == 2  # policy and reference; not for counting FLOPs, nor for samples
    with monkeypatch.context() as patch:
        crash_at(patch, 4)
        with pytest.raises(CrashError):
            run(settings, place)
    assert same(run(settings, place), whole)
    for name, weight in whole["weights"].items():
        torch.testing.assert_close(weight, eager["weights"][name], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "adapters"])
def test_each_size_is_compiled_once(
    model: Path,
    tmp_path: Path,
    captured: list[Any],
    lora: dict[str, Any] | None,
) -> None:
    place = write_rows(tmp_path, shard_rows=(80, 72, 32), several_sizes=True)
    options: dict[str, Any] = {"resolution": SIZES, "held_out": 0.3, "log_every": 4, "lora": lora}
    eager = run(make_settings(model, **options), place, "eager")
    with torch._dynamo.config.patch(recompile_limit=2):  # as if there were many sizes
        compiled = run(make_settings(model, compile=True, **options), place, "compiled")
    # policy, reference and, where a size has held-out rows, the policy without gradient
    assert len(captured) == 3 * len(SIZES) - 1
    for name, weight in compiled["weights"].items():
        torch.testing.assert_close(weight, eager["weights"][name], rtol=1e-3, atol=1e-4)


def test_a_compiled_network_has_its_flops_counted(
    model: Path, place: Place, captured: list[Any]
) -> None:
    found = []
    for compiled in (False, True):
        learner, stream = make_learner(make_settings(model, compile=compiled), place)
        batch = next(stream.batches())
        learner.step(1, batch)
        found.append(learner.flops(batch))
    assert captured
    assert found[0] == found[1] > 0


@pytest.mark.slow
@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_several_processes_train_as_one(
    model: Path, place: Place, captured: list[Any], how: str
) -> None:
    options: dict[str, Any] = {
        **SHORT,
        "compile": True,
        "parallel": how,
        "gradient_accumulation_steps": 2,
    }
    run(make_settings(model, **options), place, "one")
    parallel.run(2, place.root, model, "several", **options)
    assert_alike(place, "one", "several")
