from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tgo.pipeline.config import settings
from tgo.pipeline.errors import InputError
from tgo.pipeline.tools import preset

ROOT = Path(__file__).parents[3]


@pytest.fixture
def params(tmp_path: Path) -> Path:
    return Path(shutil.copy(ROOT / "params.yaml", tmp_path))


def test_a_preset_changes_values_and_keeps_comments_and_order(params: Path) -> None:
    before = params.read_text()
    changes = preset.apply("ci", ROOT / "presets", params)
    assert "score.prompts: 512 -> 64" in changes
    assert settings.load(params).score.prompts == 64
    after = params.read_text()
    assert [line.partition("#")[2] for line in after.splitlines()] == [
        line.partition("#")[2] for line in before.splitlines()
    ]
    assert preset.apply("ci", ROOT / "presets", params) == []


def test_nothing_is_written_as_null(params: Path) -> None:
    preset.apply("sd15", ROOT / "presets", params)
    text = params.read_text()
    assert "  shrinkage: null" in text
    assert "  resolution: null " in text


def test_the_world_preset_brings_the_shipped_settings_back(params: Path) -> None:
    assert preset.apply("world", ROOT / "presets", params) == []
    preset.apply("ci", ROOT / "presets", params)
    preset.apply("world", ROOT / "presets", params)
    assert settings.load(params) == settings.load(ROOT / "params.yaml")


EXTENDING = sorted(
    path.stem for path in (ROOT / "presets").glob("*.yaml") if "extends: " in path.read_text()
)


def test_nothing_of_an_earlier_preset_stays(params: Path, tmp_path: Path) -> None:
    (tmp_path / "fresh").mkdir()
    for name in [*EXTENDING, *EXTENDING[-2::-1]]:
        fresh = Path(shutil.copy(ROOT / "params.yaml", tmp_path / "fresh"))
        preset.apply(name, ROOT / "presets", fresh)
        preset.apply(name, ROOT / "presets", params)
        assert settings.load(params) == settings.load(fresh), name
    preset.apply("world", ROOT / "presets", params)
    assert params.read_text() == (ROOT / "params.yaml").read_text()


def test_test_sets_of_a_preset_take_the_place_of_those_there(params: Path) -> None:
    changes = preset.apply("sd15", ROOT / "presets", params)
    assert set(settings.load(params).prompts.tests) == {"parti", "hpsv2"}
    assert any(line.startswith("prompts.tests: {'seen'") for line in changes)
    assert "generator.steps: 16 -> 50" in changes


@pytest.mark.parametrize("path", sorted((ROOT / "presets").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_preset_is_valid(params: Path, path: Path) -> None:
    preset.apply(path.stem, path.parent, params)
    settings.load(params)


ONE_CARD = [
    "sd15",
    "sdxl-lora",
    "sd35-lora",
    "flux-lora",
    "flux2-klein-lora",
    "qwen-image-lora",
    "meissonic",
    "amused",
    "ratings-sd15-lora",
    "ratings-sdxl-lora",
]


@pytest.mark.parametrize("name", ONE_CARD)
def test_one_card_is_enough_as_shipped(params: Path, name: str) -> None:
    preset.apply(name, ROOT / "presets", params)
    found = settings.load(params)
    assert (found.launch.score, found.launch.train) == ("tgo score", "tgo train")
    assert found.train.samples is not None
    assert found.train.samples.every < found.train.steps  # more than the base model's are drawn
    alone = found.train.batch_size / found.train.gradient_accumulation_steps
    preset.apply(name, ROOT / "presets", params, gpus=4)
    spread = settings.load(params)
    assert spread.train.batch_size == found.train.batch_size
    assert spread.train.batch_size / (4 * spread.train.gradient_accumulation_steps) == alone
    assert spread.launch.train == "torchrun --standalone --nproc-per-node 4 --no-python tgo train"


@pytest.mark.parametrize("name", EXTENDING)
def test_comments_stay_beside_their_settings(params: Path, name: str) -> None:
    """Every comment of params.yaml but those of its test sets, and none far to the right."""
    preset.apply(name, ROOT / "presets", params)
    after = params.read_text()
    of_the_tests = re.compile(r"combinations|relations")
    for line in (ROOT / "params.yaml").read_text().splitlines():
        _, mark, said = line.partition("#")
        if mark and not of_the_tests.search(said):
            assert f"#{said}" in after
    assert max(map(len, after.splitlines())) < 105


def test_a_preset_for_fewer_cards_keeps_what_a_card_holds(params: Path) -> None:
    preset.apply("sd15", ROOT / "presets", params, gpus=2)
    found = settings.load(params)
    assert found.train.gradient_accumulation_steps == 8  # 128 images, 8 on a card at once
    preset.apply("sd35", ROOT / "presets", params, gpus=1)
    found = settings.load(params)
    assert found.train.gradient_accumulation_steps == 32
    assert (found.launch.score, found.launch.train) == ("tgo score", "tgo train")
    preset.apply("sd15", ROOT / "presets", params)
    before = params.read_text()
    with pytest.raises(InputError, match="choose a divisor of 16"):
        preset.apply("sd15", ROOT / "presets", params, gpus=3)
    assert params.read_text() == before


def test_an_unknown_or_wrong_preset_changes_nothing(params: Path, tmp_path: Path) -> None:
    before = params.read_text()
    with pytest.raises(InputError, match="did you mean world"):
        preset.apply("wrld", ROOT / "presets", params)
    (tmp_path / "wrong.yaml").write_text("label: {percentile: 200}\n")
    with pytest.raises(InputError, match=r"wrong\.yaml: label\.percentile = 200"):
        preset.apply("wrong", tmp_path, params)
    (tmp_path / "typo.yaml").write_text("labels: 3\n")
    with pytest.raises(InputError, match="did you mean label"):
        preset.apply("typo", tmp_path, params)
    assert params.read_text() == before


def test_every_preset_is_listed_with_what_it_is_for() -> None:
    lines = dict(line.split(": ", 1) for line in preset.listed(ROOT / "presets"))
    assert lines.keys() == {path.stem for path in (ROOT / "presets").glob("*.yaml")}
    assert lines["ci"].startswith("A short run of every stage")
    assert all(len(said) > 20 for said in lines.values())
