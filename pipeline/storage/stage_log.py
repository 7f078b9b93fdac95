"""reports/stages.jsonl: when each stage last ran to its end, how long, where, and of which code.

No stage reads it but the report, and no result depends on it: dates and machines lie outside what
is promised to be the same bytes.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tgo.pipeline.storage.atomic import canonical, replacing, write_json

LIBRARIES = ("torch", "diffusers", "transformers", "peft", "datasets", "pyarrow", "numpy")
_KEYS = {"stage", "began", "seconds", "machine", "python", "commit", "versions"}


@contextmanager
def recorded(path: Path, now: Path, stage: str) -> Iterator[None]:
    """Tell of a stage while it runs and when it ended well.

    Of several processes only the first one tells.

    Args:
        path: the stages that ended well.
        now: the stage that runs.
        stage: its name.
    """
    began, clock = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), time.monotonic()
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    write_json(now, {"stage": stage, "began": began, "pid": os.getpid()})
    try:
        yield
    finally:
        now.unlink(missing_ok=True)
    line = {
        "stage": stage,
        "began": began,
        "seconds": round(time.monotonic() - clock, 1),
        "machine": machine(),
        "python": platform.python_version(),
        "commit": commit(),
        "versions": dict(_versions()),
    }
    lines = read(path)
    lines.pop(stage, None)
    with replacing(path) as file:
        for each in (*lines.values(), line):
            file.write((canonical(each) + "\n").encode())


def read(path: Path) -> dict[str, dict[str, Any]]:
    """The line of each stage, the one that ended last last; what is damaged is left out."""
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, UnicodeDecodeError):
        return {}
    lines = {}
    for raw in text.splitlines():
        try:
            line = json.loads(raw)
        except ValueError:  # told for people alone: a line less is no reason to end a run
            continue
        if isinstance(line, dict) and line.keys() >= _KEYS:
            lines[str(line["stage"])] = line
    return lines


def running(now: Path) -> dict[str, Any] | None:
    """The stage that runs on this machine just now, with `began` and `pid`; None if none does."""
    try:
        found = json.loads(now.read_text(encoding="utf-8"))
        os.kill(found["pid"], 0)
    except (FileNotFoundError, ProcessLookupError):  # it ended, or was killed
        return None
    except PermissionError:  # somebody else's process
        pass
    return dict(found)


def machine() -> str:
    """Processor, cores and graphics card, without the machine's name."""
    import torch

    cores = os.cpu_count()
    parts = [f"{platform.system()} {platform.machine()}, {cores} cores"]
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    return ", ".join(parts)


def commit() -> str | None:
    """The commit of the working folder, marked where files differ from it; None outside git."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _versions() -> Iterator[tuple[str, str]]:
    for library in LIBRARIES:
        try:
            yield library, version(library)
        except PackageNotFoundError:
            continue
