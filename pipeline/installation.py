"""Whether the code that runs is that of the folder it runs in."""

from __future__ import annotations

import sys
from pathlib import Path

from tgo.pipeline.errors import InputError

CODE = Path(__file__).resolve().parent


def check_source(folder: Path) -> None:
    """Refuse to run one checkout's code in another checkout.

    The environment of a project that was copied still names the first folder: its old code would
    run, and DVC would record the hashes of the new.

    Raises:
        InputError: `folder` holds the source code of tgo, and other code is running.
    """
    source = (folder / "pipeline").resolve()
    if (source / "cli.py").is_file() and source != CODE:
        raise InputError(
            f"{folder.resolve()} holds tgo's source code, but {sys.prefix} runs that of "
            f"{CODE.parent}; run `make setup` here, and then this folder's .venv/bin/tgo"
        )
