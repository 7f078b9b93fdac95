"""Several processes (gloo, CPU) train as one does, sharded or not, and resume with any number."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.trainer import parallel, test_train
from tests.trainer.miniature import Place, make_settings
from tests.workspace import free_port
from tgo.pipeline.layout import LORA as LORA_FILE

LORA = {"rank": 2, "alpha": 4.0, "targets": None}
CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "four, statistics of the whole batch": (
        4,
        {"objective": "kto", "gradient_accumulation_steps": 2, "draws": 2, "held_out": 0.3},
    ),
    "two, adapters and classes": (2, {"lora": LORA, "positives": 0.75}),
    "two, running shift and a new reference": (
        2,
        {"objective": "bco", "beta": "auto", "reference": "epoch", "batch_size": 48},
    ),
    "two, in parts": (2, {"parallel": "fsdp", "held_out": 0.3}),
    "two, pairs": (2, {"objective": "dspo", "held_out": 0.3, "log_every": 4}),
    "four, in parts, adapters": (
        4,
        {"parallel": "fsdp", "lora": LORA, "gradient_accumulation_steps": 2},
    ),
}


def lines_of(place: Place, name: str) -> list[dict[str, Any]]:
    text = place.paths(name).log.read_text()
    return [json.loads(line) for line in text.splitlines()]


def weights_of(place: Place, name: str) -> dict[str, torch.Tensor]:
    tuned = place.paths(name).tuned
    adapters = tuned / LORA_FILE
    return load_file(adapters if adapters.exists() else tuned / test_train.WHOLE)


def assert_alike(place: Place, left: str, right: str) -> None:
    """The same log to 1e-5 and the same weights but for rounding."""
    ones, others = lines_of(place, left), lines_of(place, right)
    assert len(ones) == len(others) > 0
    for one, other in zip(ones, others, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5, abs=1e-5)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3)
        for key in ("epoch", "samples_seen", "step"):
            assert one[key] == other[key]
        held_out = [key for key in one if key.startswith("held_out_")]
        assert held_out == [key for key in other if key.startswith("held_out_")]
        for key in held_out:
            assert one[key] == pytest.approx(other[key], rel=1e-3, abs=1e-3)
    weights = weights_of(place, left)
    for name, value in weights_of(place, right).items():
        torch.testing.assert_close(weights[name], value, rtol=1e-3, atol=2e-4)


def seen_by_one(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    seen: list[list[int]] = []
    original = test_train.Learner.step

    def noting(self: Any, number: int, batch: Any) -> None:
        seen.append(batch.rows.tolist())
        original(self, number, batch)

    monkeypatch.setattr(test_train.Learner, "step", noting)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_several_processes_train_as_one(
    model: Path, place: Place, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    size, options = CASES[case]
    options = {"steps": 4, "checkpoint_every": 2, "log_every": 1} | options
    seen = seen_by_one(monkeypatch)
    test_train.run(make_settings(model, **options), place, "one")
    found = parallel.run(size, place.root, model, "several", **options)
    together = [list(chain(*shares)) for shares in zip(*found, strict=True)]
    assert together == seen  # the same samples, none twice, none missed
    assert_alike(place, "one", "several")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
def test_another_number_of_processes_continues(
    model: Path, place: Place, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    options: dict[str, Any] = {"checkpoint_every": 2, "log_every": 1, "parallel": mode}
    test_train.run(make_settings(model, steps=4, **options), place, "one")
    parallel.run(2, place.root, model, "several", steps=2, **options)
    found = parallel.run(4, place.root, model, "several", steps=4, **options)
    assert [len(steps) for steps in found] == [2, 2, 2, 2]  # it did continue
    assert_alike(place, "one", "several")
    shards = place.paths("several").checkpoints / "step-00000004/shards"
    assert shards.is_dir() == (mode == "fsdp")
    # and so does a single one, from weights in parts or whole
    test_train.run(make_settings(model, steps=6, **options), place, "several")
    test_train.run(make_settings(model, steps=6, **options), place, "one")
    assert "continuing after step 4 of 6" in caplog.text
    assert_alike(place, "one", "several")


@pytest.mark.slow
def test_a_run_in_parts_continues_one_that_was_not(model: Path, place: Place) -> None:
    options: dict[str, Any] = {"checkpoint_every": 2, "log_every": 1}
    test_train.run(make_settings(model, steps=4, **options), place, "one")
    test_train.run(make_settings(model, steps=2, **options), place, "several")
    found = parallel.run(2, place.root, model, "several", steps=4, parallel="fsdp", **options)
    assert [len(steps) for steps in found] == [2, 2]  # it did continue
    assert_alike(place, "one", "several")


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "adapters"])
def test_what_is_frozen_lies_in_parts_in_bfloat16(
    model: Path, place: Place, monkeypatch: pytest.MonkeyPatch, lora: dict[str, Any] | None
) -> None:
    options: dict[str, Any] = {"steps": 3, "log_every": 1, "precision": "bfloat16", "lora": lora}
    test_train.run(make_settings(model, **options), place, "one")
    options |= {"parallel": "fsdp"}
    parallel.run(2, place.root, model, "several", **options)
    for one, other in zip(lines_of(place, "one"), lines_of(place, "several"), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=0.05)

    frozen: dict[torch.dtype, int] = {}
    original = test_train.Learner.step

    def noting(self: Any, number: int, batch: Any) -> None:
        original(self, number, batch)
        kept = self._networks.network if lora else self._networks._reference
        for parameter in kept.parameters():
            if not parameter.requires_grad:
                frozen[parameter.dtype] = frozen.get(parameter.dtype, 0) + parameter.numel()

    monkeypatch.setattr(test_train.Learner, "step", noting)
    for name, value in parallel.announced(0, 1, free_port()).items():
        monkeypatch.setenv(name, value)
    test_train.run(make_settings(model, **options), place, "alone")
    assert frozen[torch.bfloat16] > 0.9 * sum(frozen.values())
