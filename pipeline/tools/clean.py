"""`tgo clean`: what was set aside, how much it takes, and its removal on request."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tgo.pipeline.storage import aside
from tgo.pipeline.storage.aside import Entry
from tgo.pipeline.wording import size

DATA = Path("data")


def removable(below: Path = DATA) -> tuple[list[Entry], list[Entry]]:
    """What was set aside below a folder.

    Args:
        below: the folder to search, with all folders in it.

    Returns:
        The entries that this program wrote, and those of others.

    Raises:
        InputError: the note beside an entry is damaged.
    """
    found = aside.entries(below)
    ours = [entry for entry in found if entry.kind != "foreign"]
    return ours, [entry for entry in found if entry.kind == "foreign"]


def lines(ours: Sequence[Entry], foreign: Sequence[Entry]) -> list[str]:
    """One line an entry: its size, where it lies, and why it was set aside."""
    told = [f"{size(entry.bytes):>8}  {entry.folder}: {entry.reason}" for entry in ours]
    return told + [f"    kept  {entry.folder}: not written by tgo" for entry in foreign]


def remove(ours: Sequence[Entry]) -> int:
    """Remove entries that this program wrote; returns the bytes freed."""
    return sum(aside.remove(entry) for entry in ours)
