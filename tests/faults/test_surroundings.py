"""Locale, time zone, clock, handle limit and folder do not change what the stages write."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests import workspace
from tests.stage_one import contents
from tests.workspace import TGO

pytestmark = pytest.mark.slow
BACKWARDS = """
import time
_begin = time.time()
_calls = iter(range(10**9))
time.time = lambda: _begin - 86400 * 400 - 60 * next(_calls)
"""
"""A clock that stands more than a year back and goes backwards by a minute at every look."""
HANDLES = 256


@pytest.fixture(scope="module")
def models(tiny_generator: Path, tiny_rewards: Mapping[str, str]) -> tuple[Path, dict[str, str]]:
    return tiny_generator, {"clip": tiny_rewards["clip"]}


def run(folder: Path, environment: Mapping[str, str]) -> dict[str, bytes]:
    """Score, label and train in a folder; what they leave under data."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG"))}

    def few_handles() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (HANDLES, HANDLES))

    for stage in ("score", "label", "train"):
        done = subprocess.run(
            [TGO, stage],
            cwd=folder,
            env=clean | dict(environment),
            preexec_fn=few_handles,
            capture_output=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        assert b"Traceback" not in done.stderr
    return {
        f"{part}/{name}": value
        for part in ("data/scored", "data/labelled", "models/tuned/unet")
        for name, value in contents(folder / part).items()
    }


def test_the_same_bytes_whatever_surrounds_the_stages(
    models: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    (tmp_path / "clock").mkdir()
    (tmp_path / "clock/sitecustomize.py").write_text(BACKWARDS)
    surroundings = {
        "usual": {"LANG": "C.UTF-8", "TZ": "UTC"},
        "ein Ordner mit Umläuten und Leerzeichen": {"LC_ALL": "C", "TZ": "Pacific/Kiritimati"},
        "clock": {"LC_ALL": "POSIX", "PYTHONPATH": str(tmp_path / "clock"), "PYTHONHASHSEED": "7"},
    }
    found = {}
    for name, environment in surroundings.items():
        folder = workspace.fill(tmp_path / "projects" / name, *models)
        prompts = folder / "data/prompts/train.jsonl"
        prompts.write_text(prompts.read_text().replace("a red circle", "ein großer Kreis, 赤い丸"))
        found[name] = run(folder, environment)
    usual = found.pop("usual")
    assert len(usual) > 10
    for name, other in found.items():
        assert other.keys() == usual.keys(), name
        assert [key for key in usual if other[key] != usual[key]] == [], name
