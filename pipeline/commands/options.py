"""What the commands share: where settings come from, and what is said before and after a stage."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tgo.pipeline import logs
from tgo.pipeline.errors import InputError

if TYPE_CHECKING:
    from tgo.pipeline.config.settings import Settings

log = logging.getLogger(__name__)
PROJECT_FILE = "dvc.yaml"
"""A folder that holds it is a project: the stages' folders lie there."""

Params = Annotated[Path, typer.Option("--params", help="The settings file.")]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a setting for this call: --set train.steps=10. Repeat it for more.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document, for scripts.")]

Open = Annotated[bool, typer.Option("--open", help="Open it in the browser.")]


def checked(params: Path, changes: Sequence[str] | None = None) -> Settings:
    """The settings, checked before a stage is imported: torch takes seconds, a typo should not.

    With the settings file of a project elsewhere (`--params ../params.yaml`), the command works
    in that project, and not in the folder where it was called.

    Args:
        params: the settings file.
        changes: settings to change, as `train.steps=10`.

    Returns:
        The checked settings.

    Raises:
        InputError: the file or a changed setting is wrong.
    """
    from tgo.pipeline.config.settings import load

    settings = load(params, changes or ())
    project = params.resolve().parent
    if (project / PROJECT_FILE).is_file() and not Path(PROJECT_FILE).exists():
        os.chdir(project)
        logs.note(f"working in {project}")
    return settings


def loading(stage: str) -> None:
    """Say at once that a stage begins: its libraries take seconds to load."""
    logs.note(f"tgo {stage}: loading ...")


def finish(result: str, following: str) -> None:
    """The last line of a stage: what it made, and what to run next."""
    log.info("%s; next: %s", result, following)


def open_page(page: Path) -> None:
    """Show a page in the browser."""
    import webbrowser

    webbrowser.open(page.resolve().as_uri())


def print_json(value: Any) -> None:
    """Print a value for a script; the keys are those of the command's documentation."""
    print(json.dumps(value, ensure_ascii=False, indent=2))


def pair(text: str, option: str, example: str) -> tuple[str, str]:
    """`KEY=VALUE` in two; InputError that shows the option's example."""
    key, equals, value = text.partition("=")
    if not (key and equals and value):
        raise InputError(f"{option} {text}: write it as {example}")
    return key, value
