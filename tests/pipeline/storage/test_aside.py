"""Work that does not fit is kept, found again by its key, and removed only on request."""

from __future__ import annotations

from pathlib import Path

import pytest

from tgo.pipeline.errors import InputError
from tgo.pipeline.storage import aside


def write(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_what_is_set_aside_comes_back_by_its_key(tmp_path: Path) -> None:
    shard = write(tmp_path / "scored/a.parquet", "rows")
    key = aside.key_of({"seed": 1})
    place = aside.set_aside([shard], tmp_path / "scored", "seed was 1", kind="superseded", key=key)
    assert not shard.exists()
    assert (place / "a.parquet").read_text() == "rows"
    entry = aside.find(tmp_path / "scored", key)
    assert entry
    assert (entry.kind, entry.reason, entry.bytes) == ("superseded", "seed was 1", 4)
    assert aside.find(tmp_path / "scored", aside.key_of({"seed": 2})) is None
    aside.take_back(entry, "a.parquet", tmp_path / "scored/b.parquet")
    assert (tmp_path / "scored/b.parquet").read_text() == "rows"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scored"]


def test_two_of_one_name_and_key_lie_side_by_side(tmp_path: Path) -> None:
    for text in ("first", "second"):
        shard = write(tmp_path / "scored/a.parquet", text)
        aside.set_aside([shard], tmp_path / "scored", "why", kind="superseded", key="k")
    assert [e.folder.name for e in aside.entries(tmp_path)] == ["k", "k.2"]


def test_a_link_keeps_its_things_beside_the_real_folder(tmp_path: Path) -> None:
    shard = write(tmp_path / "disk/scored/a.parquet")
    (tmp_path / "scored").symlink_to(tmp_path / "disk/scored")
    place = aside.set_aside([shard], tmp_path / "scored", "why", kind="damaged")
    assert place == tmp_path / "disk/.scored.aside/0001"


def test_cleaning_removes_what_is_listed_and_nothing_of_others(tmp_path: Path) -> None:
    folder = write(tmp_path / "checkpoints/update-1/state", "12345").parent
    place = aside.set_aside([folder], tmp_path / "checkpoints", "why", kind="superseded", key="k")
    write(place / "mine.txt", "mine")
    foreign = write(tmp_path / "scored/notes.parquet")
    aside.set_aside([foreign], tmp_path / "scored", "no shard", kind="foreign")
    of_checkpoints, of_scored = aside.entries(tmp_path)
    assert aside.remove(of_checkpoints) == 5
    assert sorted(path.name for path in place.iterdir()) == ["mine.txt", "why.json"]
    with pytest.raises(InputError, match="files of others"):
        aside.remove(of_scored)
