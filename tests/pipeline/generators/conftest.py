"""Tiny models of every family, written and loaded once a module."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.families import Loaded, load, write


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root, made = tmp_path_factory.mktemp("families"), {}

    def folder(kind: str) -> Path:
        if kind not in made:
            made[kind] = write(kind, root / kind)
        return made[kind]

    return folder


@pytest.fixture(scope="module")
def loaded(folders: Callable[[str], Path]) -> Callable[[str], Loaded]:
    made: dict[str, Loaded] = {}

    def family(kind: str) -> Loaded:
        if kind not in made:
            made[kind] = load(kind, folders(kind))
        return made[kind]

    return family
