"""Peak memory is a sum of what the stages hold, and moves with the settings as it should."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pipeline.tools.test_preset import ONE_CARD
from tests.workspace import ROOT
from tgo.pipeline.config import settings as params
from tgo.pipeline.config.settings import Settings
from tgo.pipeline.tools import cards, costs, fitting, memory, models, preset
from tgo.pipeline.tools.footprint import BYTES

SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
LORA = {"train.lora": {"rank": 16, "alpha": 16.0, "targets": None}}
N = 859_520_964


def settings(changes: Mapping[str, Any] = {}) -> Settings:
    plain = {
        "generator.model": SD15,
        "train.samples": None,
        "train.draws": 1,
        "train.batch_size": 8,
        "score.batch_size": 8,
    }
    return fitting.changed(params.load(ROOT / "params.yaml"), plain | dict(changes))


def peaks(changes: Mapping[str, Any] = {}, gpus: int = 1) -> Mapping[str, float]:
    cost = costs.known(SD15)
    assert cost is not None
    asked = settings(changes)
    return memory.peaks(asked, cost.at(models.side_of(asked.generator.resolution)), gpus=gpus)


def test_full_fine_tuning_holds_weights_average_gradient_state_and_reference() -> None:
    """Twenty bytes a parameter and four of the reference, where activations are few."""
    found = peaks({"generator.resolution": 64, "train.batch_size": 1})["train"]
    assert found == pytest.approx(24 * N + memory.PROCESS["cuda"], rel=0.01)


def test_adapters_hold_the_base_once_in_the_type_that_is_computed_in() -> None:
    few = LORA | {"generator.resolution": 64, "train.batch_size": 1}
    full, half = (
        peaks(few | {"train.precision": precision})["train"] - memory.PROCESS["cuda"]
        for precision in ("float32", "bfloat16")
    )
    assert full == pytest.approx(4 * N, rel=0.05)
    assert half == pytest.approx(2 * N, rel=0.07)


LESS = [
    {"train.gradient_accumulation_steps": 8},
    {"train.gradient_checkpointing": True},
    {"train.precision": "bfloat16"},
    {"train.optimizer": "adamw8bit"},
    {"train.optimizer": "adafactor"},
    LORA,
    {"train.batch_size": 4},
    {"generator.resolution": 256},
]


@pytest.mark.parametrize("change", LESS, ids=lambda change: next(iter(change)))
def test_what_saves_memory_in_training_is_planned_so(change: dict[str, Any]) -> None:
    assert peaks(change)["train"] < 0.95 * peaks()["train"]


@pytest.mark.parametrize(
    "change",
    [
        {"generator.dtype": "bfloat16"},
        {"score.batch_size": 4},
        {"generator.resolution": 256},
        {"generator.guidance_scale": 1.0},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_saves_memory_in_sampling_is_planned_so(change: dict[str, Any]) -> None:
    assert peaks(change)["score"] < peaks()["score"]
    assert peaks(change)["score"] == peaks(change)["evaluate"]


def test_parts_of_several_cards_share_what_one_would_hold() -> None:
    sharded = {"train.parallel": "fsdp"}
    assert peaks(sharded, gpus=8)["train"] < peaks(sharded)["train"] / 4


@given(st.sampled_from([1, 2, 4, 8]), st.sampled_from(LESS))
def test_more_micro_batches_never_hold_more_activations(parts: int, change: dict[str, Any]) -> None:
    more = {"train.batch_size": 8, "train.gradient_accumulation_steps": 8}
    fewer = more | {"train.gradient_accumulation_steps": parts}
    kept = {k: v for k, v in change.items() if k not in more}
    gradients = 4 * N  # the first micro batch of several leaves them
    assert peaks(kept | more)["train"] <= peaks(kept | fewer)["train"] + gradients


@pytest.mark.parametrize("room", [30e9, 15e9, 10e9, 6e9, 4e9])
def test_the_setting_that_is_named_makes_it_fit(room: float) -> None:
    cost = costs.known(SD15)
    assert cost is not None
    asked = settings({"train.batch_size": 32})
    told = fitting.remedy(asked, cost, "train", room, gpus=1)
    assert told.startswith("set train.gradient")
    assert float(told.rpartition("then ")[2].removesuffix(" GB")) * 1e9 <= room * 1.01


def test_it_is_said_where_nothing_is_enough() -> None:
    cost = costs.known(SD15)
    assert cost is not None
    told = fitting.remedy(settings(), cost, "train", 1e9, gpus=1)
    assert "use a larger card or a smaller model" in told


def test_imported_ratings_are_not_generated() -> None:
    assert "score" not in peaks({"label.reward": "rating"})


@pytest.mark.parametrize(
    ("model", "family", "key", "changes"),
    [
        (SD15, "diffusion", "sd15.loop", {}),
        (SD15, "diffusion", "sd15.lora", LORA),
        (SDXL, "sdxl", "sdxl.loop", {}),
    ],
)
def test_training_holds_what_was_measured_on_a_card(
    model: str, family: str, key: str, changes: dict[str, Any]
) -> None:
    size, run = key.split(".")
    measured = json.loads((ROOT / "benchmarks/results/training-h200.json").read_text())[size][run]
    of_the_run = {
        "generator.model": model,
        "generator.family": family,
        "train.precision": "bfloat16",
        "train.batch_size": measured["batch"],
    }
    cost = costs.known(model)
    assert cost is not None
    on_a_card = settings(of_the_run | changes).model_copy(update={"device": "cuda"})
    planned = memory.peaks(on_a_card, cost)["train"]
    assert planned / 1e9 == pytest.approx(measured["peak_gb"], rel=0.15)


COUNTED = [name for name in ONE_CARD if name not in ("meissonic", "amused")]
"""Presets whose model's memory is known."""


@pytest.mark.parametrize("name", COUNTED)
def test_presets_for_one_card_fit_on_it(name: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text((ROOT / "params.yaml").read_text())
    preset.apply(name, ROOT / "presets", path)
    chosen = params.load(path)
    cost = costs.known(chosen.generator.model)
    assert cost is not None
    planned = memory.peaks(chosen, cost.at(models.side_of(chosen.generator.resolution)))
    room = cards.named("rtx4090").bytes
    assert room is not None
    assert {"train", "evaluate"} <= planned.keys()
    assert max(planned.values()) < 0.95 * room


@pytest.mark.parametrize("change", [{}, LORA, {"generator.dtype": "bfloat16"}])
def test_a_stage_reads_no_more_than_it_holds(change: dict[str, Any]) -> None:
    cost = costs.known(SD15)
    assert cost is not None
    assert cost.footprint is not None
    asked = settings(change).model_copy(update={"device": "cpu"})
    read, held = memory.weights(asked, cost), memory.peaks(asked, cost)
    assert read["score"] < held["score"]
    assert read["train"] < held["train"]
    network = cost.footprint.network.parameters * BYTES[asked.generator.dtype]
    assert read["evaluate"] == read["score"] + network  # the second model's
