"""`tgo init FOLDER`: a folder of settings, stages, presets and prompts in which `dvc repro` runs.

The files are those of the repository; an installed package carries them beside its code. The code
itself stays where it is installed: the stages of the new folder depend on data alone, and each
stage still knows by its own fingerprints what other code has made.
"""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tgo.pipeline.errors import InputError

SHIPPED = Path(__file__).resolve().parents[2]  # the repository, or site-packages/tgo
FILES = ("params.yaml", ".dvcignore", ".gitignore", ".dvc/config")
FOLDERS = (".dvc/plots", "presets", "data/prompts")
STAGES = "dvc.yaml"
WORLD = tuple(f"data/world/{name}" for name in ("diffusion", "masked", "rewards"))
CODE = ("pipeline", "trainer", "rewards", "data/world")
HEADER = """\
The stages: `dvc repro` runs what has changed, `dvc repro label` up to one stage.

They depend on data and settings. After another version of tgo is installed, run `dvc repro
--force`: every stage keeps the work that the new code would do in the same way.
"""


def create(folder: Path, *, world: bool) -> Path:
    """Make a new project, whole or not at all; a folder that exists gets dvc.yaml last.

    Args:
        folder: is made; it may exist if it is empty.
        world: with the miniature models (22 MB) that the shipped settings name, so that
            `dvc repro` runs at once.

    Returns:
        The folder.

    Raises:
        InputError: `folder` is a file, or holds something already.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; name a folder that is new or empty")
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{folder}: is not empty; name a folder that is new or empty")
    place = folder.absolute().parent
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place, prefix=".tgo-init-") as temporary:
        made = Path(temporary) / "project"
        for name in FILES:
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(SHIPPED / name, made / name)
        for name in (*FOLDERS, *(WORLD if world else ())):
            ignored = shutil.ignore_patterns("__pycache__", "*.py")
            shutil.copytree(SHIPPED / name, made / name, ignore=ignored)
        (made / STAGES).write_text(_stages(SHIPPED / STAGES, WORLD if world else ()))
        if not _in_git(folder):
            with (made / ".dvc/config").open("a") as config:
                config.write("    no_scm = true\n")
        if not folder.exists():
            made.replace(folder)
        else:  # it may be somebody's working folder, which must stay the same one
            for path in sorted(made.iterdir(), key=lambda path: path.name == STAGES):
                path.replace(folder / path.name)
    return folder


def _stages(shipped: Path, kept: Iterable[str]) -> str:
    """The shipped stages without their dependencies on code, and on data/world unless `kept`."""
    yaml = YAML()
    yaml.width = 4096  # never wrap a line
    pipeline: Any = yaml.load(shipped.read_text())
    pipeline.yaml_set_start_comment(HEADER)
    for stage in pipeline["stages"].values():
        dependencies = stage["deps"]
        for index in reversed(range(len(dependencies))):
            path = dependencies[index]
            if path not in kept and any(path == of or path.startswith(f"{of}/") for of in CODE):
                del dependencies[index]
    text = io.StringIO()
    yaml.dump(pipeline, text)
    return text.getvalue()


def _in_git(folder: Path) -> bool:
    return any((parent / ".git").exists() for parent in folder.absolute().parents)
