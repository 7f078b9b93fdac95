from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tgo.pipeline.storage import fingerprint


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package `pipeline.trial` of two modules, one of which imports the other."""
    from tgo import pipeline

    folder = tmp_path / "trial"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "used.py").write_text('"""Words."""\nSCALE = 1  # why\n')
    (folder / "main.py").write_text(
        "from typing import TYPE_CHECKING\n"
        "from tgo.pipeline.trial import used\n"
        "if TYPE_CHECKING:\n    from tgo.pipeline.trial import only_types\n"
        "def double(x):\n    '''Words.'''\n    return 2 * x * used.SCALE\n"
    )
    (folder / "only_types.py").write_text("X = 1\n")
    (folder / "unrelated.py").write_text("Y = 1\n")
    monkeypatch.setattr(pipeline, "__path__", [*pipeline.__path__, str(tmp_path)])
    yield folder
    for name in [name for name in sys.modules if name.startswith("tgo.pipeline.trial")]:
        del sys.modules[name]


def digest() -> str:
    fingerprint._source.cache_clear()
    return fingerprint.code_sha256("tgo.pipeline.trial.main")


@pytest.mark.parametrize(
    ("module", "text", "counts"),
    [
        ("main", "return 3 * x", True),
        ("used", "SCALE = 2", True),
        ("used", '"""Other words."""\nSCALE    =   1  # another reason', False),
        ("only_types", "X = 2", False),
        ("unrelated", "Y = 2", False),
    ],
)
def test_code_counts_where_it_computes(package: Path, module: str, text: str, counts: bool) -> None:
    before = digest()
    path = package / f"{module}.py"
    source = path.read_text()
    path.write_text(source.replace("return 2 * x", text) if module == "main" else f"{text}\n")
    assert (digest() != before) is counts


def test_the_modules_that_compute_images_are_all_reached() -> None:
    reached: set[str] = set()
    pending = ["tgo.pipeline.scoring.sampling", "tgo.pipeline.generators.diffusion"]
    while pending:
        module = pending.pop()
        if module not in reached and module.startswith("tgo.pipeline"):
            reached.add(module)
            pending += fingerprint._source(module)[1]
    used = {
        "tgo.pipeline.seeds",
        "tgo.pipeline.generators.base",
        "tgo.pipeline.generators.model_folder",
    }
    assert used < reached
    assert not reached & {
        "tgo.pipeline.scoring.local_engine",
        "tgo.pipeline.config.settings",
        "tgo.pipeline.cli",
    }


def test_the_first_difference_is_told_in_words() -> None:
    old = {"generator": {"steps": 16, "family": "diffusion"}, "seed": 0}
    assert fingerprint.difference(old, old) is None
    new = {"generator": {"steps": 20, "family": "diffusion"}, "seed": 0}
    assert fingerprint.difference(old, new) == "generator.steps was 16, is 20"
    assert fingerprint.difference(old, {"generator": old["generator"]}) == "seed was 0, is null"
