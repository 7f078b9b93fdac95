"""The notebook of docs/ runs from its first cell to its last."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.workspace import ROOT

pytestmark = pytest.mark.slow
SMALLER = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from tests.workspace import SMALL, change
change(Path("."), SMALL)
"""
"""A cell of the test's own: a run of seconds, on one thread."""


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    notebook = nbformat.read(ROOT / "docs/try_it.ipynb", as_version=4)
    first, *cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert first.source == '%pip install -q "..[all]"'  # this environment has it
    assert not any(cell.outputs for cell in cells)
    at = next(n for n, cell in enumerate(cells) if cell.source.startswith("%cd")) + 1
    cells.insert(at, nbformat.v4.new_code_cell(SMALLER))
    notebook.cells = cells
    resources = {"metadata": {"path": str(tmp_path)}}
    done = NotebookClient(notebook, timeout=900, kernel_name="python3", resources=resources)
    done.execute()
    said = {cell.source: cell.outputs for cell in cells}
    shown = [out for outputs in said.values() for out in outputs]
    assert sum("image/png" in out.get("data", {}) for out in shown) == 2
    assert "report" in "".join(out.get("text", "") for out in said["!dvc repro"])
    assert (tmp_path / "project/reports/index.html").is_file()
