from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tgo.pipeline.errors import InputError
from tgo.pipeline.tools import offline_plots


def dvc(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *words], check=True, capture_output=True)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    dvc("init", "--no-scm")
    (tmp_path / "curve.csv").write_text("step,loss\n1,0.7\n2,0.5\n")
    plots = "plots:\n  - loss:\n      x: step\n      y: {curve.csv: loss}\n"
    (tmp_path / "dvc.yaml").write_text(plots)
    return tmp_path


def test_the_page_holds_its_scripts_and_asks_the_network_for_nothing(project: Path) -> None:
    text = offline_plots.write(project / "page", []).read_text()
    assert "window.vegaEmbed=" in text
    assert "<script src" not in text
    assert text.count("vegaEmbed('#loss'") == 1
    assert '"loss": "0.5"' in text


def test_what_dvc_cannot_do_is_its_own_line(project: Path) -> None:
    with pytest.raises(InputError, match=r"^dvc plots diff into .*page: \S"):
        offline_plots.write(project / "page", ["no-such-revision"])
