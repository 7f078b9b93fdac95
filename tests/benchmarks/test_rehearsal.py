"""The rehearsal at tiny size: every stage runs, and its figures are printed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.workspace import ROOT

pytestmark = pytest.mark.slow


def test_every_stage_is_timed_beside_the_plan(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.rehearsal", str(tmp_path / "rehearsal")]
    done = subprocess.run(
        [*command, "--size", "tiny", "--threads", "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"\| (\w+) \| [\d,]+ s \| [\d.]+ [MG]B \|", done.stdout)
    assert rows == ["score", "label", "train", "evaluate", "report"]
    assert "tgo plan:\ngenerator  diffusion: model, 2 steps" in done.stdout
    assert (tmp_path / "rehearsal/reports/index.html").is_file()
