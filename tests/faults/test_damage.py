from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.damage import campaign, intact_files


def test_damaged_files_are_refused_in_one_line_or_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short form of `make faults` with another seed, so other damage."""
    monkeypatch.chdir(tmp_path)
    assert campaign(intact_files(), tries=300, seed=2) == []
