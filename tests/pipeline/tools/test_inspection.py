"""What `tgo inspect` says of scores, in figures and as a page."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from tests.scores import write_scored
from tests.workspace import ROOT
from tgo.pipeline.cli import app
from tgo.pipeline.errors import InputError
from tgo.pipeline.tools import inspection, inspection_page
from tgo.pipeline.tools.inspection import Column

HOSTILE = '<script>alert("x")</script> & "quotes"'


def png(shade: int, side: int = 8) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), (shade, 0, 0)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def scored(tmp_path: Path) -> Path:
    """Twelve images in two shards: one failed, one without a clip score."""
    clip = np.arange(12, dtype=np.float32)
    clip[4] = np.nan
    images = [{"bytes": png(20 * row), "path": f"{row}.png"} for row in range(12)]
    return write_scored(
        tmp_path / "scored",
        {"clip": clip, "aesthetic": -2 * np.arange(12, dtype=np.float32)},
        status=["failed"] + ["ok"] * 11,
        prompt=[HOSTILE] * 12,
        error=["gave <b>NaN</b>"] + [""] * 11,
        image=images,
    )


def test_figures_for_scripts(scored: Path) -> None:
    told = CliRunner().invoke(app, ["inspect", str(scored), "--json"])
    found = json.loads(told.stdout)
    assert (found["images"], found["prompts"], found["shards"]) == (12, 6, 2)
    assert found["failed"] == {"gave <b>NaN</b>": 1}
    clip = found["scores"]["clip"]
    assert (clip["count"], clip["missing"], clip["quantiles"]["0.5"]) == (10, 1, 6.0)
    assert clip["correlations"] == {"clip": pytest.approx(1), "aesthetic": pytest.approx(-1)}


def test_figures_of_a_folder(scored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = inspection.look(scored)
    assert found.summary.endswith("12 images of 6 prompts in 2 shards, 1 failed")
    clip, aesthetic = found.columns
    assert (len(clip.there), clip.missing) == (10, 1)
    assert (len(aesthetic.there), aesthetic.missing) == (11, 0)
    there = [1, 2, 3, 5, 6, 7, 8, 9, 10, 11]
    assert clip.mean == pytest.approx(np.mean(there))
    assert clip.std == pytest.approx(np.std(there))
    assert [clip.quantile(share) for share in (0, 0.1, 0.5, 1)] == [1, 1, 6, 11]
    assert found.correlations()[0, 1] == pytest.approx(-1)
    inspection.show(found)
    told = capsys.readouterr().out
    assert "1 failed: gave <b>NaN</b>" in told
    assert re.search(r"clip +10 +1 +6.2", told)
    assert re.search(r"aesthetic +−1.00", told)


@given(
    st.lists(st.floats(-1e3, 1e3, width=32) | st.just(float("nan")), min_size=1, max_size=40),
    st.integers(1, 9),
)
def test_quantiles_are_order_statistics_and_picks_are_in_order(
    values: list[float], count: int
) -> None:
    scores = np.array(values, np.float32)
    column = Column("clip", "cosine", scores, 0)
    there = np.sort(scores[np.isfinite(scores)])
    for share in (0.0, 0.05, 0.5, 1.0):
        if len(there):
            assert column.quantile(share) == np.quantile(there, share, method="inverted_cdf")
    picks = inspection_page.pick(column, count)
    best, median, worst = (scores[picks[name]] for name in ("best", "median", "worst"))
    shown = min(count, len(there))
    assert best.tolist() == there[::-1][:shown].tolist()
    assert worst.tolist() == there[:shown].tolist()
    assert len(median) == shown
    assert not shown or median.min() <= column.quantile(0.5) <= median.max()


def test_constant_and_missing_scores_have_no_correlation(tmp_path: Path) -> None:
    scores = {"clip": np.ones(4, np.float32), "aesthetic": np.full(4, np.nan, np.float32)}
    folder = write_scored(tmp_path, scores, error=[""] * 4, prompt=["a"] * 4)
    found = inspection.look(folder)
    assert np.isnan(found.correlations()).all()
    assert np.isnan(found.columns[1].mean)
    inspection.show(found)
    assert "n/a" in inspection_page.render(inspection.look(folder), 0)


def test_the_page_shows_and_escapes(scored: Path, tmp_path: Path) -> None:
    found = inspection.look(scored)
    path = inspection_page.write(found, tmp_path / "page.html", 2)
    page = path.read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(" in page
    assert "gave &lt;b&gt;NaN&lt;/b&gt;" in page
    assert page.count("<img ") == 2 * 3 * 2
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    assert page == inspection_page.render(found, 2)


def test_rows_are_read_by_their_number(scored: Path) -> None:
    paths = inspection.look(scored).paths
    rows = list(inspection_page.read_rows(paths, [0, 5, 6, 11]))
    assert [row["id"] for row in rows] == ["r0", "r5", "r6", "r11"]
    assert rows[2]["image"]["bytes"] == png(120)


def test_folders_without_scores_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no shards"):
        inspection.look(tmp_path)


@pytest.mark.parametrize("command", ["inspect", "sql"])
def test_looking_loads_no_models(scored: Path, tmp_path: Path, command: str) -> None:
    arguments = {
        "inspect": [str(scored), "--html", str(tmp_path / "page.html")],
        "sql": ["select count(*) from scored", "--scored", str(scored)],
    }[command]
    code = (
        "import sys; from tgo.pipeline.cli import app; "
        f"app(['{command}', *{arguments!r}], standalone_mode=False); "
        "print(sorted({'torch', 'diffusers', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
    assert "12" in done.stdout
