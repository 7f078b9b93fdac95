from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import train, train_rivals
from benchmarks.generator_sizes import SIZES, unet
from tgo.trainer.speed import count_flops


def figures(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    train.main([*arguments, "--steps", "1", "--repeats", "1", "--threads", "1"])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize(("name", "parameters"), [("sd15", 859_520_964), ("sdxl", 2_567_463_684)])
def test_full_sizes_are_those_of_the_published_networks(name: str, parameters: int) -> None:
    with torch.device("meta"):
        network = unet(SIZES[name])
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


@pytest.mark.parametrize(("name", "teraflop"), [("sd15", 0.803), ("sdxl", 6.76)])
def test_a_forward_pass_has_the_arithmetic_of_the_published_networks(
    name: str, teraflop: float
) -> None:
    size = SIZES[name]
    with torch.device("meta"), torch.no_grad():
        network = unet(size)
        told: dict[str, Any] = {
            "encoder_hidden_states": torch.zeros(1, *size.conditions["embeddings"])
        }
        if size.family == "sdxl":
            pooled = torch.zeros(1, *size.conditions["pooled"])
            told["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": torch.zeros(1, 6)}
        latents = torch.zeros(1, 4, size.latent, size.latent)
        flops = count_flops(lambda: network(latents, torch.zeros(1), **told))
    assert flops / 1e12 == pytest.approx(teraflop, rel=0.01)


@pytest.mark.parametrize("size", ["tiny", "tiny-xl"])
def test_every_contender_runs(capsys: pytest.CaptureFixture[str], size: str) -> None:
    found = figures(capsys, "--size", size)
    for name in ("loop", "lora", "kept", "bare", "usual"):
        assert found[name]["images_per_s"] > 0
    # policy forward and backward, reference forward; adapters need no gradients of what is frozen
    flops = {name: found[name]["gflop_per_image"] for name in ("loop", "lora", "kept")}
    assert flops["loop"] == pytest.approx(flops["kept"] * 4 / 3, rel=0.01)
    assert flops["lora"] < flops["loop"]
    ratio = found["loop"]["images_per_s"] / found["usual"]["images_per_s"]
    assert found["loop_faster_than_usual_by"] == pytest.approx(ratio)


def test_settings_of_the_loop_can_be_changed(capsys: pytest.CaptureFixture[str]) -> None:
    changes = ("--set", "gradient_checkpointing=true", "objective=sft")
    found = figures(capsys, "--size", "tiny", "--contenders", "loop", "kept", *changes)
    flops = found["loop"]["gflop_per_image"]
    assert flops == found["kept"]["gflop_per_image"] > 0  # without a reference nothing is kept
    assert "loop_faster_than_usual_by" not in found


def test_the_stream_gives_rows(tmp_path: Path) -> None:
    found = train_rivals.time_streams(tmp_path, repeats=1, count=2)
    assert set(found["rows_per_s"]) == {"tgo", "tgo, 2 workers", "datasets"}
    assert min(found["rows_per_s"].values()) > 0
