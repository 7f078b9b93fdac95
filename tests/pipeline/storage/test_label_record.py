from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.scores import make_rule, write_scored
from tgo.pipeline.errors import InputError
from tgo.pipeline.labelling import label
from tgo.pipeline.labelling.rule import labels
from tgo.pipeline.storage import label_record, shards
from tgo.pipeline.storage.label_record import check_labels


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    scores = np.random.default_rng(0).normal(size=24).astype(np.float32)
    scored = write_scored(tmp_path / "scored", scores)
    label.label_folder(scored, tmp_path / "labelled", make_rule(), seed=0)
    return scored, tmp_path / "labelled"


def test_a_whole_folder_of_these_settings_passes(folders: tuple[Path, Path]) -> None:
    assert check_labels(*folders, make_rule())["n"] == 24
    assert check_labels(*folders, make_rule(earlier="elsewhere.json"))["n"] == 24


def test_other_settings_are_named(folders: tuple[Path, Path]) -> None:
    with pytest.raises(InputError, match=r"label\.percentile = 50\.0, and params\.yaml says 90"):
        check_labels(*folders, make_rule(percentile=90.0))


def test_a_run_killed_between_shards_is_noticed(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored, labelled = folders
    done: list[Path] = []
    write = shards.write_labels

    def die_at_the_third(to: Path, *rest: Any) -> None:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(to)
        write(to, *rest)

    monkeypatch.setattr(shards, "write_labels", die_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        label.label_folder(scored, labelled, make_rule(percentile=75.0), seed=0)
    monkeypatch.undo()
    for percentile in (50.0, 75.0):
        with pytest.raises(InputError, match=r"threshold\.json: is missing.*run `tgo label`"):
            check_labels(scored, labelled, make_rule(percentile=percentile))
    label.label_folder(scored, labelled, make_rule(percentile=75.0), seed=0)
    assert check_labels(scored, labelled, make_rule(percentile=75.0))["n"] == 24


def test_a_shard_of_another_run_and_other_scores_are_noticed(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    scored, labelled = folders
    label.label_folder(scored, tmp_path / "other", make_rule(percentile=75.0), seed=0)
    name = shards.shard_paths(labelled)[1].name
    shutil.copy(tmp_path / "other" / name, labelled / name)
    with pytest.raises(InputError, match=f"{name}: its labels are of another run"):
        check_labels(scored, labelled, make_rule())
    label.label_folder(scored, labelled, make_rule(), seed=0)
    write_scored(scored, np.arange(24, dtype=np.float32))
    with pytest.raises(InputError, match="made of other scores"):
        check_labels(scored, labelled, make_rule())


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_record_is_one_line_or_read_as_it_was(
    folders: tuple[Path, Path], tmp_path: Path, data: st.DataObject
) -> None:
    whole = json.loads((folders[1] / label_record.NAME).read_text())
    key = data.draw(st.sampled_from(sorted(whole)))
    values: st.SearchStrategy[Any] = (
        st.none() | st.booleans() | st.text(max_size=3) | st.just({}) | st.just(1e999)
    )
    text = json.dumps({**whole, key: data.draw(values)})
    if data.draw(st.booleans()):
        text = text[: data.draw(st.integers(0, len(text)))]
    path = tmp_path / "record.json"
    path.write_text(text)
    try:
        found = label_record.read(path)
    except InputError as error:
        line = str(error)
    else:
        line = f"{path}: {found.keys() >= {'threshold', 'identity'}}"
    assert line.startswith(f"{path}: ")
    assert "\n" not in line


@pytest.mark.parametrize("text", ["[" * 100_000, "[1]", "", "\xff", '{"threshold": NaN}'])
def test_hostile_records_are_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "record.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match="run `tgo label` again"):
        label_record.read(path)


def test_ties_and_one_class_name_the_setting_that_helps(tmp_path: Path) -> None:
    stars = np.array([5] * 14 + [4] * 6 + [3] * 4, np.float32)
    scored = write_scored(tmp_path / "s", stars)
    facts = label.label_folder(scored, tmp_path / "a", make_rule(percentile=40.0), seed=0)
    assert facts["positives"] == 20
    likes = write_scored(tmp_path / "likes", np.array([0] * 23 + [1], np.float32))
    facts = label.label_folder(likes, tmp_path / "b", make_rule(), seed=0)
    assert facts["positives"] == 24
    assert "set label.ties to negative" in facts["warnings"][0]
    strict = label.label_folder(likes, tmp_path / "c", make_rule(ties="negative"), seed=0)
    assert strict["positives"] == 1
    facts = label.label_folder(scored, tmp_path / "d", make_rule(percentile=30.0), seed=0)
    threshold, usable = facts["threshold"], np.ones(24, bool)
    then = (labels(stars, usable, threshold, "negative") == 1).mean()
    assert f"label.ties = negative makes that {then:.1%}" in facts["warnings"][0]
