"""What is installed: whose code runs, and which optional packages are there."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

from tgo.pipeline.errors import InputError

CODE = Path(__file__).resolve().parent
EXTRAS = {
    "dvc": "dvc",
    "duckdb": "sql",
    "matplotlib": "plots",
    "vl_convert": "plots",
    "tensorboard": "tensorboard",
    "wandb": "loggers",
    "dvclive": "loggers",
    "ray": "ray",
    "bitsandbytes": "8bit",
    "torchao": "8bit",
    "requests": "judges",
    "rapidocr": "ocr",
    "onnxruntime": "ocr",
    "flask": "people",
    "waitress": "people",
    "choix": "people",
    "crowdkit": "people",
}
"""Optional package -> the extra of pyproject.toml that brings it."""
PROJECT = ("dvc", "matplotlib", "tensorboard")
"""What `dvc repro` needs with the shipped settings."""


def check_source(folder: Path) -> None:
    """Refuse to run one checkout's code in another checkout.

    The environment of a project that was copied still names the first folder: its old code would
    run, and DVC would record the hashes of the new.

    Args:
        folder: where the command was called.

    Raises:
        InputError: `folder` holds the source code of tgo, and other code is running.
    """
    source = (folder / "pipeline").resolve()
    if (source / "cli.py").is_file() and source != CODE:
        raise InputError(
            f"{folder.resolve()} holds tgo's source code, but {sys.prefix} runs that of "
            f"{CODE.parent}; run `make setup` here, and then this folder's .venv/bin/tgo"
        )


def missing_extras() -> list[str]:
    """The extras that a project's `dvc repro` needs and that are not installed."""
    return [EXTRAS[package] for package in PROJECT if find_spec(package) is None]


def explain_missing(error: ModuleNotFoundError) -> str | None:
    """One line for a package that an extra brings; None for any other, which is a defect."""
    package = (error.name or "").partition(".")[0]
    if package not in EXTRAS:
        return None
    return f"this needs {package}, which is not installed: pip install 'tgo[{EXTRAS[package]}]'"
