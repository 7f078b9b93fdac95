from __future__ import annotations

import copy
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tgo.pipeline.config import settings
from tgo.pipeline.errors import InputError

ROOT = Path(__file__).parents[3]


@pytest.fixture
def values() -> dict[str, Any]:
    return copy.deepcopy(YAML(typ="safe").load((ROOT / "params.yaml").read_text()))


def refusal(values: dict[str, Any], key: str, value: Any) -> str:
    *groups, last = key.split(".")
    group = values
    for name in groups:
        group = group[name]
    if value is ...:
        del group[last]
    else:
        group[last] = value
    with pytest.raises(InputError) as caught:
        settings.validate(values, "params.yaml")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_shipped_file_is_valid_and_every_setting_has_its_reason() -> None:
    assert settings.load(ROOT / "params.yaml").label.percentile == 50
    train = (ROOT / "params.yaml").read_text().split("train:\n  objective")[1].split("\n\n")[0]
    lines = [line for line in train.splitlines()[1:] if "batch_size" not in line]
    # a reason stands beside its setting, or above where values are long
    assert all("#" in line or above.startswith("  #") for above, line in pairwise(["", *lines]))


def test_a_reward_is_a_source_or_more(values: dict[str, Any]) -> None:
    values["rewards"] |= {
        "hpsv2": {"source": "xswu/HPSv2", "backend": "official"},
        "mine": {"module": "mine.py", "options": {"depth": 2}},
    }
    rewards = settings.validate(values, "params.yaml").rewards
    assert rewards["clip"].source == "data/world/rewards/clip"
    assert rewards["hpsv2"].backend == "official"
    assert (rewards["mine"].source, rewards["mine"].options) == ("", {"depth": 2})
    again = settings.validate(settings.validate(values, "x").model_dump(), "x")
    assert again.rewards == rewards


@pytest.mark.parametrize(
    ("key", "value", "parts"),
    [
        ("label.percentil", 3, ["label.percentil: unknown key", "did you mean label.percentile?"]),
        ("labl", {}, ["labl: unknown key", "did you mean label?"]),
        ("something", 1, ["something: unknown key", "use one of seed"]),
        ("label.percentile", "fifty", ["label.percentile = 'fifty'", "a number from 0 to 100"]),
        ("label.percentile", 101, ["label.percentile = 101", "0 to 100"]),
        ("label.confidence", float("nan"), ["label.confidence = nan"]),
        ("seed", True, ["seed = True", "whole number"]),
        ("seed", 1.5, ["seed = 1.5"]),
        ("label", ..., ["label: missing", "add a group"]),
        ("label.ties", ..., ["label.ties: missing", "positive (>=)"]),
        ("generator", 3, ["generator = 3", "a group of settings"]),
        ("generator.family", "flow", ["generator.family = 'flow'", "diffusion"]),
        ("generator.resolution", "512", ["generator.resolution = '512'", "pixels a side"]),
        ("generator.resolution", True, ["generator.resolution = True", "[[width, height], ...]"]),
        ("generator.resolution", [], ["generator.resolution = []", "pixels a side"]),
        ("generator.resolution", [[512]], ["generator.resolution = [[512]]", "[[width, height]"]),
        ("generator.resolution", [[512, 0]], ["generator.resolution = [[512, 0]]"]),
        (
            "generator.resolution",
            [[512, 256], [1024, 512]],
            ["512 x 256 and 1024 x 512 are of one shape", "keep one"],
        ),
        ("generator.guidance_scale", 0.5, ["generator.guidance_scale = 0.5", "at least 1"]),
        ("rewards.pikscore", "x", ["rewards.pikscore", "did you mean rewards.pickscore?"]),
        ("rewards", {}, ["label.reward = 'pickscore' is not among rewards ()"]),
        ("rewards.clip", "", ["rewards.clip: missing", "hub id"]),
        ("rewards.clip", {"sauce": "x"}, ["rewards.clip.sauce: unknown key", "source"]),
        ("rewards.clip", {"source": "x", "backend": "mine"}, ["rewards.clip.backend", "official"]),
        ("rewards.clip", 3, ["rewards.clip = 3", "a source, or a group of source, module"]),
        ("score.compile", "yes", ["score.compile = 'yes'", "true or false"]),
        ("prompts.tests", {"../up": "x"}, ["prompts.tests.../up: not usable as a name"]),
        ("prompts.train", 3, ["prompts.train = 3", "path"]),
        ("evaluate.judge", "nothing", ["evaluate.judge = 'nothing'", "package.module:name"]),
        ("label.reward", "clap", ["label.reward = 'clap'"]),
        ("rewards", {"clip": "x"}, ["label.reward = 'pickscore' is not among rewards (clip)"]),
        ("score.rows_per_shard", 3, ["score.images_per_prompt = 4", "at least 4"]),
        ("score.images_per_prompt", 300, ["score.rows_per_shard = 256", "at least 300"]),
        ("evaluate.images_per_prompt", 300, ["evaluate.images_per_prompt = 300"]),
        ("train.beta", "much", ["train.beta = 'much'", "a number above 0, or auto"]),
        ("train.beta", 0, ["train.beta = 0", "a number above 0, or auto"]),
        ("train.beta", ..., ["train.beta: missing", "or auto"]),
        ("train.reference", "never", ["train.reference = 'never'", "initial", "epoch"]),
        ("train.objectives.kto", {}, ["train.objectives.kto: unknown key"]),
        ("train.objectives.dpo.pairs", "some", ["train.objectives.dpo.pairs = 'some'", "extreme"]),
        ("train.objectives.tgo.shift_decay", 1.5, ["tgo.shift_decay = 1.5", "null for no shift"]),
        ("train.objectives.nft.mix", 2.0, ["train.objectives.nft.mix = 2.0", "at most 1"]),
        ("train.collapse.accuracy", 0.7, ["train.collapse.accuracy = 0.7", "null for never"]),
        ("train.batch_size", 4096, ["train.batch_size = 4096", "2048 images"]),
    ],
)
def test_a_wrong_setting_is_named_with_its_remedy(
    values: dict[str, Any], key: str, value: Any, parts: list[str]
) -> None:
    line = refusal(values, key, value)
    assert line.startswith("params.yaml: ")
    assert all(part in line for part in parts), line


def test_several_faults_are_counted(values: dict[str, Any]) -> None:
    values["seed"] = -1
    assert refusal(values, "threads", 0).endswith("(and 1 more)")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a: [1", "line 1"),
        ("seed: 0\nseed: 1\n", "duplicate key"),
        ("", "holds no settings"),
        ("- 1", "holds no settings"),
        ("a: \x01", "not readable as YAML text"),
    ],
)
def test_broken_yaml_is_one_line_with_file_and_place(tmp_path: Path, text: str, part: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        settings.load(path)
    assert str(caught.value).startswith(str(path))
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is missing; run in the repository"):
        settings.load(tmp_path / "nothing.yaml")
