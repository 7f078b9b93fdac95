"""The page on a run that goes on, from a run's files at several moments."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipeline import finished_run
from tests.pipeline.page import browser
from tests.pipeline.page.test_browser import CONTRAST, PROBE
from tgo.pipeline import layout
from tgo.pipeline.page import live, report
from tgo.pipeline.storage import stage_log

SETTINGS = finished_run.make_settings(evaluate={"prompts": 12})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    layout.REPORTS.mkdir()
    return tmp_path


def page(running: str | None = None) -> str:
    """The page as the first look writes it, while a stage runs in this process."""
    if running is None:
        return next(live.watch(SETTINGS, 5)).read_text()
    with stage_log.recorded(layout.STAGES, layout.RUNNING, running):
        return next(live.watch(SETTINGS, 5)).read_text()


def test_before_the_first_stage_it_says_what_is_lacking(folder: Path) -> None:
    text = page()
    assert "No stage runs just now" in text
    assert "No report yet" in text
    assert text.count("not yet") == 4
    assert 'http-equiv="refresh" content="5"' in text


def test_a_run_that_goes_on_shows_stage_step_and_curves(folder: Path) -> None:
    finished_run.write_run(SETTINGS, gain=0.1)
    layout.EVALUATION.unlink()
    lines = layout.TRAIN_LOG.read_text().splitlines()
    layout.TRAIN_LOG.write_text("\n".join(lines[:2]) + '\n{"step": 3')  # being written
    assert "Training, step" not in page("train")
    layout.TRAIN_LOG.write_text("\n".join(lines[:2]) + "\n")
    text = page("train")
    step = json.loads(lines[1])["step"]
    assert "tgo train runs since" in text
    assert f"Training, step {step}" in text
    assert f"{step} of {SETTINGS.train.steps} steps" in text
    assert "evaluation.json: is missing" in text
    assert "Margin" in text
    assert not layout.RUNNING.exists()


def test_a_finished_run_has_a_report_written_once_a_stage(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished_run.write_run(SETTINGS, gain=0.1)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    pages = live.watch(SETTINGS, 5)
    text = next(pages).read_text()
    assert '<a href="index.html">' in text
    assert "6 of 6 sets of images" in text
    assert report.INDEX.is_file()
    report.INDEX.unlink()
    next(pages)
    assert not report.INDEX.exists()
    with stage_log.recorded(layout.STAGES, layout.RUNNING, "evaluate"):
        pass
    next(pages)
    assert report.INDEX.is_file()


def test_a_stage_that_was_killed_runs_no_more(folder: Path) -> None:
    code = (
        "import os; from pathlib import Path; from tgo.pipeline.storage.stage_log import recorded\n"
        "with recorded(Path('reports/stages.jsonl'), Path('reports/running.json'), 'score'):\n"
        "    os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -9
    assert json.loads(layout.RUNNING.read_text())["stage"] == "score"
    assert stage_log.running(layout.RUNNING) is None
    with stage_log.recorded(layout.STAGES, layout.RUNNING, "score"):
        found = stage_log.running(layout.RUNNING)
        assert found is not None
        assert found["pid"] == os.getpid()


@pytest.mark.slow
@pytest.mark.skipif(browser.CHROMIUM is None, reason="no chromium on this machine")
def test_it_fits_every_width(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    finished_run.write_run(SETTINGS, gain=0.1)
    with stage_log.recorded(layout.STAGES, layout.RUNNING, "evaluate"):
        shown = next(live.watch(SETTINGS, 3600)).resolve()
    with browser.tab(tmp_path_factory.mktemp("profile")) as tab:
        for width in (390, 820, 1280):
            tab.open(shown, width)
            found = tab.run(PROBE)
            assert found == dict.fromkeys(found, 0), (width, found)
        assert tab.run(CONTRAST) == []
        assert tab.complaints == []
