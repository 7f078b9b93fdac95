from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp

from tgo.pipeline.errors import InputError
from tgo.trainer import sharded_checkpoint


def tree() -> dict[str, Any]:
    return {
        "network": {"w": torch.arange(6.0).view(2, 3), "h": torch.ones(2, dtype=torch.bfloat16)},
        "optimizer": {"lr": 0.1, "betas": (0.9, 0.99), "step": torch.tensor(3.0)},
    }


class Evil:
    """A pickle that makes a file when it is read."""

    def __init__(self, made: Path) -> None:
        self._made = made

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._made,)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    dcp.save(tree(), checkpoint_id=tmp_path / "shards", no_dist=True)
    return tmp_path / "shards"


def empty() -> dict[str, Any]:
    own = tree()
    own["network"] = {name: torch.zeros_like(value) for name, value in own["network"].items()}
    own["optimizer"] = {"lr": 0.0, "betas": (0.0, 0.0), "step": torch.tensor(0.0)}
    return own


def test_what_was_written_is_read(folder: Path) -> None:
    own = empty()
    found = sharded_checkpoint.read(own, folder)
    for part, values in tree().items():
        for name, value in values.items():
            same = torch.equal if isinstance(value, torch.Tensor) else lambda a, b: a == b
            assert same(found[part][name], value), (part, name)
    assert not own["network"]["w"].any()


def test_an_index_that_names_code_is_refused_before_it_runs(folder: Path, tmp_path: Path) -> None:
    made = tmp_path / "made"
    (folder / ".metadata").write_bytes(pickle.dumps(Evil(made)))
    with pytest.raises(InputError, match=r"was not written here \(it names pathlib\."):
        sharded_checkpoint.read(empty(), folder)
    assert not made.exists()


def test_a_value_that_names_code_is_refused_before_it_runs(folder: Path, tmp_path: Path) -> None:
    made = tmp_path / "made"
    own = empty()
    own["optimizer"]["lr"] = Evil(made)
    dcp.save(own, checkpoint_id=folder, no_dist=True)
    with pytest.raises(InputError, match="shards"):
        sharded_checkpoint.read(empty(), folder)
    assert not made.exists()


def test_torch_itself_would_run_it(folder: Path, tmp_path: Path) -> None:
    """Why there is a reader of our own; it can go once torch refuses such an index."""
    made = tmp_path / "made"
    metadata = dcp.FileSystemReader(folder).read_metadata()
    (folder / ".metadata").write_bytes(pickle.dumps((Evil(made), metadata)))
    with pytest.raises(
        AttributeError
    ):  # torch executes the pickle before it finds that a tuple is no index
        dcp.FileSystemReader(folder).read_metadata()
    assert made.exists()
