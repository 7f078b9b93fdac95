from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.workspace import ROOT
from tgo.pipeline.storage import fingerprint
from tgo.pipeline.storage.fingerprint import code_sha256, reached_modules
from tgo.trainer.fingerprint import CODE as TRAINING

IMAGES = ("tgo.pipeline.scoring.sampling", "tgo.pipeline.generators.diffusion")
Digest = Callable[..., str]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The sources of `tgo` in a folder of their own, where a test may change them."""
    for room in ("pipeline", "trainer", "rewards"):
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(fingerprint, "ROOT", tmp_path)
    return tmp_path


@pytest.fixture
def digest() -> Iterator[Digest]:
    def fresh(*modules: str) -> str:
        fingerprint._source.cache_clear()
        fingerprint._file_of.cache_clear()
        return code_sha256(*modules)

    yield fresh
    fingerprint._source.cache_clear()
    fingerprint._file_of.cache_clear()


@pytest.mark.parametrize(
    ("before", "after", "counts"),
    [
        ("return 2 * x", "return 3 * x", True),
        ("used.SCALE", "used . SCALE  # twice", False),
        ("Words.", "Other words.", False),
        ("used.SCALE", "used.OTHER", True),
    ],
)
def test_code_counts_and_words_do_not(
    package: Path, digest: Digest, before: str, after: str, counts: bool
) -> None:
    (package / "pipeline/used.py").write_text("SCALE = 1\n")
    path = package / "pipeline/trial.py"
    path.write_text(
        "from tgo.pipeline import used\n"
        "def double(x):\n    'Words.'\n    return 2 * x * used.SCALE\n"
    )
    first = digest("tgo.pipeline.trial")
    path.write_text(path.read_text().replace(before, after))
    assert (digest("tgo.pipeline.trial") != first) is counts


def test_what_is_imported_for_types_does_not_count(package: Path, digest: Digest) -> None:
    for name in ("used", "typed"):
        (package / f"pipeline/{name}.py").write_text("SCALE = 1\n")
    (package / "pipeline/trial.py").write_text(
        "from typing import TYPE_CHECKING\n"
        "from tgo.pipeline import used\n"
        "if TYPE_CHECKING:\n    from tgo.pipeline import typed\n"
    )
    first = digest("tgo.pipeline.trial")
    (package / "pipeline/typed.py").write_text("SCALE = 2\n")
    assert digest("tgo.pipeline.trial") == first
    (package / "pipeline/used.py").write_text("SCALE = 2\n")
    assert digest("tgo.pipeline.trial") != first


def test_a_new_objective_changes_the_code_of_training(package: Path, digest: Digest) -> None:
    first = digest(*TRAINING)
    (package / "trainer/objectives/mine.py").write_text("SCALE = 1\n")
    registry = package / "trainer/objectives/registry.py"
    registry.write_text(f"from tgo.trainer.objectives import mine\n{registry.read_text()}")
    second = digest(*TRAINING)
    assert second != first
    (package / "trainer/objectives/mine.py").write_text("SCALE = 2\n")
    assert digest(*TRAINING) not in (first, second)


@pytest.mark.parametrize(
    ("edited", "images", "training"),
    [
        ("rewards/clip.py", False, False),
        ("pipeline/storage/embeddings.py", True, True),  # float16 of the prompts' conditions
        ("pipeline/generators/latent.py", True, True),
        ("pipeline/storage/fingerprint.py", False, True),
        ("trainer/learner.py", False, True),
        ("trainer/objectives/labels.py", False, True),
        ("trainer/csft_prompts.py", False, True),
        ("trainer/loggers.py", False, False),
        ("trainer/checkpoints.py", False, False),
        ("pipeline/page/report.py", False, False),
        ("pipeline/config/train_settings.py", False, False),
    ],
)
def test_a_result_depends_on_what_its_code_imports(
    package: Path, digest: Digest, edited: str, images: bool, training: bool
) -> None:
    family = IMAGES[1]
    before = digest(*IMAGES), digest(*TRAINING, family)
    path = package / edited
    path.write_text(f"{path.read_text()}\nEDITED = True\n")
    after = digest(*IMAGES), digest(*TRAINING, family)
    assert [old != new for old, new in zip(before, after, strict=True)] == [images, training]


STAGES = {
    "score": "tgo.pipeline.scoring.score",
    "label": "tgo.pipeline.labelling.label",
    "train": "tgo.trainer.train",
    "evaluate": "tgo.pipeline.evaluation.evaluate",
}
"""The module in which each stage begins; the report computes nothing and is not among them."""
PLUMBING = (
    "config", "documents", "errors", "installation", "layout", "logs", "read_errors", "wording",
)  # fmt: skip
"""Modules that read settings and files or print messages; they change no result of a good run."""


@pytest.mark.parametrize("stage", STAGES)
def test_dvc_watches_all_code_that_a_stage_imports(stage: str) -> None:
    watched = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"][stage]["deps"]
    code = [ROOT / path for path in watched if path.startswith(("pipeline", "trainer", "rewards"))]
    assert all(path.exists() for path in code)
    pending, reached = [STAGES[stage]], set()
    while pending:
        module = pending.pop()
        plumbing = module.startswith(tuple(f"tgo.pipeline.{name}" for name in PLUMBING))
        if module in reached or plumbing or not module.startswith("tgo."):
            continue
        reached.add(module)
        pending += fingerprint._source(module)[1]
    files = {path for module in reached if (path := fingerprint._file_of(module))}
    computing = {path for path in files if path.name != "__init__.py"}
    unwatched = {path for path in computing if not any(path.is_relative_to(dep) for dep in code)}
    assert unwatched == set()


def test_imports_of_another_package_are_followed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digest: Digest
) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "reward.py").write_text("from theirs import part\nimport numpy\n")
    (folder / "part.py").write_text("SCALE = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    first = digest("theirs.reward")
    assert reached_modules("theirs.reward") == {"theirs", "theirs.reward", "theirs.part"}
    (folder / "part.py").write_text("SCALE = 2\n")
    assert digest("theirs.reward") != first


def test_the_first_difference_is_told_in_words() -> None:
    old = {"generator": {"steps": 16, "family": "diffusion"}, "seed": 0}
    assert fingerprint.difference(old, old) is None
    new = {"generator": {"steps": 20, "family": "diffusion"}, "seed": 0}
    assert fingerprint.difference(old, new) == "generator.steps was 16, is 20"
    assert fingerprint.difference(old, {"generator": old["generator"]}) == "seed was 0, is null"
