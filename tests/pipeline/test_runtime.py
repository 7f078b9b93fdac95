from __future__ import annotations

import sys

import pytest

from tests.settings import changed
from tgo.pipeline import runtime
from tgo.pipeline.errors import InputError
from tgo.pipeline.scoring import load_models


@pytest.mark.parametrize("key", ["generator.compile", "score.compile", "train.compile"])
def test_compiling_without_a_compiler_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    from tgo.trainer import train

    monkeypatch.setenv("CXX", "no-such-compiler")
    group, name = key.split(".")
    settings = changed({group: {name: True}, "device": "cpu", "threads": 1})
    work = {
        "generator": lambda: load_models.load_family(settings, "cpu"),
        "score": lambda: load_models.load_panel(settings, "cpu"),
        "train": lambda: train.run(settings),
    }
    with pytest.raises(InputError, match=rf"{key} = true.*\(no-such-compiler\); install g\+\+"):
        work[group]()


def test_any_compiler_on_the_path_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", sys.executable)
    runtime.require_compiler("train.compile")
