"""Checkpoints of a training run: atomic folders that say whose they are and whether they are whole.

    data/checkpoints/step-00000050/
        network.safetensors   the policy's parameters and buffers
        ema.safetensors       the parameters' moving average
        optimizer.pt          the optimizer's state, loaded with weights_only=True
        reference.safetensors the reference's parameters, only where the run renews them
        train_log.jsonl       the log up to this step
        state.json            step, stream position, fingerprint, sha256 of the files above

Where weights lie in parts (FSDP2), ``shards/`` of torch's distributed checkpoint holds what the
first four do otherwise, and any number of processes reads it. With adapters the parameters are
theirs alone.

A folder is written under a temporary name, synced and renamed: the name is the commit.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tgo.pipeline.errors import InputError
from tgo.pipeline.storage.atomic import canonical
from tgo.pipeline.storage.fingerprint import difference
from tgo.trainer import sharded_checkpoint
from tgo.trainer.distributed import Ranks
from torch import Tensor

KEEP = 2
"""Whole checkpoints that stay: should the newest be damaged, the one before it is used."""
NETWORK, EMA, OPTIMIZER = "network.safetensors", "ema.safetensors", "optimizer.pt"
REFERENCE = "reference.safetensors"
LOG, STATE = "train_log.jsonl", "state.json"
SHARDS = "shards"


@dataclass(frozen=True)
class Checkpoint:
    """Everything a run continues from; nothing random is in it."""

    step: int
    """Steps done."""
    progress: dict[str, Any]
    """What is small, as JSON: the stream's position, statistics since the last log line."""
    log: str
    """The training log up to this step."""
    network: dict[str, Tensor] = field(default_factory=dict)
    ema: dict[str, Tensor] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    objective: dict[str, float] = field(default_factory=dict)
    """What the objective carries from step to step."""
    reference: dict[str, Tensor] | None = None
    """The reference's parameters where training renews them."""
    shards: Path | None = None
    """Where the tensors above are to be read from, if they lie in parts; they are empty then."""

    @property
    def tensors(self) -> dict[str, Any]:
        """What lies in parts where weights do."""
        found = {"network": self.network, "ema": self.ema, "optimizer": self.optimizer}
        return found if self.reference is None else found | {"reference": self.reference}


class _UnusableError(Exception):
    """Why a folder cannot be continued from."""


class Checkpoints:
    """The checkpoints in ``folder`` of the one run that ``fingerprint`` describes.

    ``fingerprint`` is all that decides the run, as JSON. ``say`` is given one line for
    each checkpoint that had to go: damaged ones, and those of another run, which must not be
    continued and would otherwise be taken for this run's. Of several processes all must call;
    the first one of ``ranks`` writes and removes.
    """

    def __init__(
        self,
        folder: Path,
        fingerprint: Mapping[str, Any],
        say: Callable[[str], None],
        ranks: Ranks | None = None,
    ) -> None:
        self._folder = folder
        self._ranks = ranks or Ranks(torch.device("cpu"))
        self._fingerprint = dict(fingerprint)
        self._say = say

    def newest(self, *, at_most: int) -> Checkpoint | None:
        """The newest whole checkpoint with no more than ``at_most`` steps, or None.

        All that are newer are named and removed, as they cannot belong to what follows.
        """
        with self._ranks.main_first():  # what is of no use has gone before the others look
            for path in reversed(self._complete()):
                try:
                    return self._read(path, at_most)
                except _UnusableError as reason:
                    self._say(f"{path}: {reason}; removed")
                    shutil.rmtree(path)
        return None

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write a checkpoint and drop the oldest beyond ``KEEP``; all or nothing.

        Raises InputError when it cannot be written (a full disk); earlier ones are untouched.
        """
        path = self._folder / f"step-{checkpoint.step:08d}"
        temporary = self._folder / f".{path.name}.tmp"
        try:
            if self._ranks.is_main:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._clean()
                temporary.mkdir()
            if self._ranks.sharded:
                self._ranks.barrier()
                sharded_checkpoint.write(checkpoint, temporary / SHARDS)
            if self._ranks.is_main:
                self._write(checkpoint, temporary)
                os.replace(temporary, path)
                _sync(self._folder)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise InputError(
                f"{path}: checkpoint cannot be written ({error}); make room or mend the folder, "
                "then run `tgo train` again: it continues from the checkpoint before"
            ) from error
        for old in self._complete()[:-KEEP] if self._ranks.is_main else ():
            shutil.rmtree(old)
        self._ranks.barrier()
        return path

    def _complete(self) -> list[Path]:
        """Folders that were committed, oldest first."""
        return sorted(self._folder.glob("step-*"))

    def _clean(self) -> None:
        """Remove what a killed run left half written."""
        for leftover in self._folder.glob(".step-*.tmp"):
            shutil.rmtree(leftover)

    def _write(self, checkpoint: Checkpoint, folder: Path) -> None:
        (folder / LOG).write_text(checkpoint.log, encoding="utf-8")
        if not self._ranks.sharded:
            _write_tensors(checkpoint, folder)
        names = sorted(
            path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
        )
        state = {
            "step": checkpoint.step,
            "progress": checkpoint.progress,
            "objective": checkpoint.objective,
            "fingerprint": self._fingerprint,
            "sha256": {name: file_sha256(folder / name) for name in names},
        }
        text = json.dumps({"state": state, "sha256": _json_sha256(state)}, indent=1)
        (folder / STATE).write_text(text, encoding="utf-8")
        for name in (*names, STATE, *([SHARDS] if self._ranks.sharded else []), "."):
            _sync(folder / name)

    def _read(self, path: Path, at_most: int) -> Checkpoint:
        state = _read_state(path)
        if changed := difference(state["fingerprint"], self._fingerprint):
            raise _UnusableError(f"of another run ({changed})")
        if state["step"] > at_most:
            raise _UnusableError(f"beyond train.steps = {at_most}")
        for name, expected in state["sha256"].items():
            if not (path / name).is_file() or file_sha256(path / name) != expected:
                raise _UnusableError(f"damaged ({name} is not as it was written)")
        shards = path / SHARDS
        return Checkpoint(
            step=state["step"],
            progress=state["progress"],
            log=(path / LOG).read_text(encoding="utf-8"),
            objective=state["objective"],
            **({"shards": shards} if self._ranks.sharded else _read_tensors(path)),
        )


def _write_tensors(checkpoint: Checkpoint, folder: Path) -> None:
    save_file(_plain(checkpoint.network), folder / NETWORK)
    save_file(_plain(checkpoint.ema), folder / EMA)
    if checkpoint.reference is not None:
        save_file(_plain(checkpoint.reference), folder / REFERENCE)
    with open(folder / OPTIMIZER, "wb") as file:
        torch.save(checkpoint.optimizer, file)


def _read_tensors(path: Path) -> dict[str, Any]:
    there = (path / REFERENCE).is_file()
    return {
        "network": load_file(path / NETWORK),
        "ema": load_file(path / EMA),
        "optimizer": torch.load(path / OPTIMIZER, weights_only=True, map_location="cpu"),
        "reference": load_file(path / REFERENCE) if there else None,
    }


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_state(path: Path) -> dict[str, Any]:
    try:
        stored = json.loads((path / STATE).read_text(encoding="utf-8"))
        state = stored["state"]
        whole = stored["sha256"] == _json_sha256(state)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _UnusableError(f"damaged ({STATE} cannot be read)") from error
    if not whole:
        raise _UnusableError(f"damaged ({STATE} is not as it was written)")
    return state


def _json_sha256(value: Any) -> str:
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _sync(path: Path) -> None:
    """Make a file's or folder's contents survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
