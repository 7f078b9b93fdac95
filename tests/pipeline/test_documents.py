from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tgo.pipeline.config.settings import load
from tgo.pipeline.documents import read_json, read_yaml
from tgo.pipeline.errors import InputError

PARAMS = (Path(__file__).parents[2] / "params.yaml").read_text()


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("[" * 50_000, "nested deeper"),
        ("- " * 50_000, "nested deeper"),
        ("\n".join(" " * n + "a:" for n in range(3000)), "nested deeper"),
        ("seed: " + "9" * 6000, "not readable as YAML"),
        ("seed: [1, 2", "not valid YAML"),
        ("seed: 1\x00", "not readable as YAML"),
        ("a: &a [*a]", "unknown key"),
        (PARAMS.replace("seed: 0  ", "seed: " + "9" * 400 + "  ", 1), "seed = 9"),
        (PARAMS.replace("  beta: 0.2", "  beta: " + "9" * 400, 1), "beyond all bounds"),
        (PARAMS.replace("threads: 2 ", "threads: 1" + "0" * 30 + " ", 1), "threads = 1"),
    ],
)
def test_hostile_settings_are_one_line(tmp_path: Path, text: str, wrong: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=wrong) as caught:
        load(path)
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").touch()
    os.truncate(tmp_path / "large", 1 << 30)
    for name, wrong in (("pipe", "not a regular"), ("large", "larger than"), ("none", "missing")):
        for read in (read_json, read_yaml):
            with pytest.raises(InputError, match=f"{name}: is {wrong}.*; do this"):
                read(tmp_path / name, "do this")


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_settings_never_raise_anything_else(tmp_path: Path, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(PARAMS) - 1))
    junk = data.draw(st.text(st.characters(codec="utf-8"), max_size=8))
    path = tmp_path / "params.yaml"
    path.write_text(PARAMS[:at] + junk + PARAMS[at + data.draw(st.integers(0, 5)) :])
    try:
        load(path)
    except InputError as error:
        line = str(error)
    else:
        line = str(path)
    assert "\n" not in line
