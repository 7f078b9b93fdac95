from __future__ import annotations

import pytest
import torch

from tests.rewards.miniatures import write_random_panel
from tgo.rewards.panel import Panel


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Five random reward models in the published formats; tests copy what they want to harm."""
    return write_random_panel(tmp_path_factory.mktemp("rewards"))


@pytest.fixture(scope="session")
def panel(sources: dict[str, str]) -> Panel:
    return Panel.load(sources)


@pytest.fixture(scope="session")
def images() -> torch.Tensor:
    """Eight pictures with structure and noise, uint8 [8, 3, 48, 48]."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(8, 3, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (48, 48), mode="bilinear")
    noise = 0.1 * torch.rand(8, 3, 48, 48, generator=generator)
    return ((smooth + noise) * 231).to(torch.uint8)


@pytest.fixture(scope="session")
def prompts() -> list[str]:
    return [
        "a red circle",
        "a red circle",
        "a blue square on the left of a green circle",
        "",
        "\u201ccurly\u201d quotes &amp; entities",
        "a " * 100,
        "\U0001f600 \u05e9\u05dc\u05d5\u05dd",
        "the green square",
    ]
