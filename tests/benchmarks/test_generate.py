"""The benchmark runs, and its rivals do the same work."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import generate
from tgo.pipeline.scoring import sampling
from tgo.rewards.panel import Panel


@pytest.fixture
def options() -> Namespace:
    return Namespace(
        device="cpu", dtype="float32", steps=2, guidance_scale=2.0, prompts=3, per_prompt=2,
        batch=4, rows_per_shard=4, repeats=1, threads=1, compile=False,
    )  # fmt: skip


def test_ours_and_diffusers_make_the_same_image(
    options: Namespace, tiny_generator: Path, tiny_panel: Panel
) -> None:
    rivals = generate.Rivals(options, tiny_generator, tiny_panel)
    row = rivals.rows[0]
    theirs = rivals.pipeline(
        row.prompt.text,
        num_inference_steps=options.steps,
        guidance_scale=options.guidance_scale,
        generator=[torch.Generator().manual_seed(row.seed)],
    ).images[0]
    ours = sampling.decode(rivals.family, rivals.sampling()[0])[0].permute(1, 2, 0).numpy()
    assert np.abs(ours.astype(int) - np.asarray(theirs).astype(int)).max() <= 1


def test_what_is_reported(
    options: Namespace, tiny_generator: Path, tiny_rewards: dict[str, str]
) -> None:
    found: dict[str, Any] = generate.run(options, tiny_generator, {"clip": tiny_rewards["clip"]})
    assert set(found["images_per_s"]) == {
        "sampling", "images", "parts", "stage", "diffusers", "diffusers, single",
    }  # fmt: skip
    assert 0 < found["busy_in_sampling"] <= 1
    assert found["tflop_per_image"] > 0
    assert found["share_of_peak"] is None
    speeds = found["images_per_s"]
    assert found["stage_over_parts"] == pytest.approx(speeds["parts"] / speeds["stage"])
    assert found["faster_than_diffusers"] == pytest.approx(speeds["images"] / speeds["diffusers"])


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 10))))
def test_overlapping_spans_count_once(pairs: list[tuple[int, int]]) -> None:
    spans = sorted((float(start), float(start + length)) for start, length in pairs)
    cells = {cell for start, length in pairs for cell in range(start, start + length)}
    assert generate.covered(spans) == len(cells)
