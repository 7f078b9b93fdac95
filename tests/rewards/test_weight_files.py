"""Damaged and hostile files: one kind of error, one line that names the file, nothing executed."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tgo.rewards import weight_files
from tgo.rewards.errors import CheckpointError

CASES = 60


def damaged(content: bytes, rng: random.Random) -> bytes:
    """One of the ways in which files arrive: cut, with bytes changed, spliced, or grown."""
    kind, changed = rng.randrange(4), bytearray(content)
    if kind == 0:
        return content[: rng.randrange(len(content))]
    if kind == 1:
        for _ in range(rng.randrange(1, 9)):
            changed[rng.randrange(min(len(content), 600))] = rng.randrange(256)
    elif kind == 2:
        start = rng.randrange(len(content))
        changed[start : start + rng.randrange(64)] = rng.randbytes(rng.randrange(64))
    else:
        changed += rng.randbytes(rng.randrange(1, 64))
    return bytes(changed)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".json"])
def test_whatever_is_damaged_is_one_line(suffix: str, tmp_path: Path) -> None:
    """It loads as before (the damage lies in numbers) or is named; nothing else is raised."""
    path, rng = tmp_path / f"file{suffix}", random.Random(0)
    tensors = {"a.weight": torch.arange(6.0).view(2, 3), "b.bias": torch.zeros(3).half()}
    if suffix == ".safetensors":
        save_file(tensors, path)
    elif suffix == ".pt":
        torch.save({"state_dict": tensors}, path)
    else:
        path.write_text(json.dumps({"hidden_act": "gelu", "sizes": [1, 2, {"deep": None}]}))
    content = path.read_bytes()
    lines: list[str] = []
    read = weight_files.read_json if suffix == ".json" else weight_files.read_tensors
    for _ in range(CASES):
        path.write_bytes(damaged(content, rng))
        try:
            assert isinstance(read(path), dict)
        except CheckpointError as error:
            lines.append(str(error))
    assert len(lines) > CASES // 4
    assert all(line.startswith(f"{path}: ") and "\n" not in line for line in lines)


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self._path),)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"weight": Bomb(tmp_path / "ran")}, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match=r"weights\.pt: cannot be read as a checkpoint"):
        weight_files.read_tensors(tmp_path / "weights.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("text", ["[1]", "[" * 100_000, "1" + "0" * 5000, '{"a": NaN', "\x00"])
def test_json_that_is_no_configuration(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json: ") as caught:
        weight_files.read_json(tmp_path / "config.json")
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_not_called_damaged(tmp_path: Path) -> None:
    (tmp_path / "config.json").mkdir()
    with pytest.raises(CheckpointError, match=r"cannot be read .*mend its permissions"):
        weight_files.read_json(tmp_path / "config.json")
    with pytest.raises(CheckpointError, match="is missing"):
        weight_files.read_json(tmp_path / "absent.json")
