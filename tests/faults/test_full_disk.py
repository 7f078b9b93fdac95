from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.faults import jobs
from tests.stage_one import contents, score_into
from tgo.pipeline.errors import InputError
from tgo.pipeline.storage import shards


def test_a_full_disk_is_one_line_and_loses_nothing(
    small_disk: Path, tmp_path: Path, tiny_family: object, tiny_panel: object
) -> None:
    with pytest.raises(InputError, match=r"shard-0000\d-of-00004.*: no space left to write it"):
        score_into(small_disk, tiny_family, tiny_panel)
    assert not list(small_disk.rglob("*.partial"))
    finished = {path: path.read_bytes() for path in shards.present(small_disk / "scored")}
    assert 0 < len(finished) < 4
    subprocess.run(["mount", "-o", "remount,size=10m", str(small_disk)], check=True)
    assert score_into(small_disk, tiny_family, tiny_panel).made == 4 - len(finished)
    assert all(path.read_bytes() == data for path, data in finished.items())
    score_into(tmp_path / "whole", tiny_family, tiny_panel)
    assert contents(small_disk) == contents(tmp_path / "whole")


@pytest.mark.slow
def test_a_file_size_limit_is_one_line_and_leaves_no_half_file(
    tmp_path: Path, tiny_generator: Path, tiny_rewards: dict[str, str]
) -> None:
    rewards = {"clip": tiny_rewards["clip"]}
    log = tmp_path / "log"
    code = jobs.finish(tmp_path / "run", tiny_generator, rewards, file_limit=12_000, log=log)
    assert code == 2
    assert "no space left to write it (File too large)" in log.read_text()
    assert not list(tmp_path.rglob("*.partial"))
    assert not shards.present(tmp_path / "run/scored")
