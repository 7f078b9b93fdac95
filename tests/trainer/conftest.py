from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests.models import write_random_diffusion
from tests.trainer.miniature import Place, write_rows


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_diffusion(tmp_path_factory.mktemp("model") / "diffusion")


@pytest.fixture(autouse=True)
def _messages(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tgo")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return write_rows(tmp_path)
