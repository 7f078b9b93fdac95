"""Every case of the benchmark has settings that validate, and a plan."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import memory
from tgo.pipeline.tools import costs
from tgo.pipeline.tools.memory import peaks

MODELS = {
    "sd15": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
}


@pytest.mark.parametrize("name", memory.CASES)
def test_every_case_can_be_planned(name: str, tmp_path: Path) -> None:
    case = memory.CASES[name]
    settings = memory.settings_of(case, tmp_path)
    cost = costs.known(MODELS[case.size])
    assert cost is not None
    side = settings.generator.resolution
    assert isinstance(side, int)
    assert 1e9 < peaks(settings, cost.at(side))[case.stage] < 40e9
