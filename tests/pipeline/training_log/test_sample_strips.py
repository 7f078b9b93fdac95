from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tgo.pipeline.errors import InputError
from tgo.pipeline.page import progress
from tgo.pipeline.training_log import sample_strips


def images(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (3, 5, 4, 3), dtype=np.uint8)


def test_strips_come_back_as_they_were_oldest_first(tmp_path: Path) -> None:
    sample_strips.describe(tmp_path, {"prompts": ["a", "b", "c"], "steps": 4})
    for step in (100, 0, 20):
        sample_strips.write(tmp_path, step, images(step))
    found = list(sample_strips.read(tmp_path))
    assert [step for step, _ in found] == [0, 20, 100]
    for step, shown in found:
        np.testing.assert_array_equal(np.stack(shown), images(step))
    assert sample_strips.facts(tmp_path) == {"prompts": ["a", "b", "c"], "steps": 4}


def test_the_same_images_are_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        sample_strips.write(tmp_path / name, 7, images(1))
    one, two = (tmp_path / name / "step-00000007.png" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_an_empty_folder_has_nothing(tmp_path: Path) -> None:
    assert sample_strips.facts(tmp_path / "none") == {}
    assert list(sample_strips.read(tmp_path / "none")) == []


def test_damage_is_named(tmp_path: Path) -> None:
    sample_strips.describe(tmp_path, {"prompts": ["a", "b", "c"]})
    sample_strips.write(tmp_path, 3, images(0))
    path = tmp_path / "step-00000003.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(InputError, match=r"step-00000003\.png: is damaged"):
        list(sample_strips.read(tmp_path))
    (tmp_path / sample_strips.FACTS).write_text("{")
    with pytest.raises(InputError, match=r"prompts\.json: is damaged"):
        sample_strips.facts(tmp_path)


def test_the_report_shows_a_few_strips_from_the_first_to_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample_strips.describe(tmp_path, {"prompts": ["a", "b", "c"]})
    assert progress.read(tmp_path) == ([], [])
    for step in range(0, 1100, 100):
        sample_strips.write(tmp_path, step, images(step))
    monkeypatch.setattr(progress, "STEPS", 6)
    shown = progress.read(tmp_path)
    assert shown.prompts == ["a", "b", "c"]
    assert [step for step, _ in shown.strips] == [0, 200, 400, 600, 800, 1000]
    assert all(source.startswith("data:image/webp;base64,") for _, source in shown.strips)
