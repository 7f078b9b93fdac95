from __future__ import annotations

from pathlib import Path

import pytest
from tgo.pipeline.errors import InputError
from tgo.pipeline.installation import CODE, check_source


def test_own_checkout_and_a_project_without_source_code_run(tmp_path: Path) -> None:
    """The code's own folder, and one that holds data only."""
    check_source(CODE.parent)
    check_source(tmp_path)


def test_copied_checkout_is_refused(tmp_path: Path) -> None:
    """A copy whose environment still names the first folder."""
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline/cli.py").write_text((CODE / "cli.py").read_text())
    with pytest.raises(InputError, match="make setup"):
        check_source(tmp_path)
