"""Checkpoints of a training run: atomic folders that say whose they are and whether they are whole.

    data/checkpoints/step-00000050/
        network.safetensors   the policy's parameters and buffers
        ema.safetensors       the parameters' moving average
        optimizer.pt          the optimizer's state, loaded with weights_only=True
        reference.safetensors the reference's parameters, only where the run renews them
        train_log.jsonl       the log up to this step
        state.json            step, stream position, fingerprint, sha256 of the files above

Where weights lie in parts (FSDP2), ``shards/`` of torch's distributed checkpoint holds what the
first four do otherwise. Either kind is continued by any number of processes, with weights in parts
or not. With adapters the parameters are theirs alone.

A folder is written under a temporary name, synced and renamed: the name is the commit.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tgo.pipeline.errors import InputError
from tgo.pipeline.storage import aside
from tgo.pipeline.storage.atomic import canonical
from tgo.pipeline.storage.fingerprint import difference
from tgo.rewards.checksum import file_sha256
from tgo.trainer import sharded_checkpoint
from tgo.trainer.distributed import Ranks

if TYPE_CHECKING:
    from tgo.pipeline.config.train_settings import Keep

LAST = 2
"""Newest checkpoints that stay by default: should one be damaged, the one before it is used."""
NAME = re.compile(r"step-\d{8}")
"""What a checkpoint's folder is called; whatever is called otherwise is not touched."""
NETWORK, EMA, OPTIMIZER = "network.safetensors", "ema.safetensors", "optimizer.pt"
REFERENCE = "reference.safetensors"
LOG, STATE = "train_log.jsonl", "state.json"
SHARDS = "shards"
logger = logging.getLogger(__name__)


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
    """Why a checkpoint cannot be continued from; ``identity`` is that of its run, if known."""

    def __init__(self, reason: str, identity: Any = None) -> None:
        super().__init__(reason)
        self.identity = identity


class Checkpoints:
    """The checkpoints in ``folder`` of the one run that ``fingerprint`` describes.

    What cannot be continued is set aside with its reason and taken up again once it can: a
    checkpoint of other settings, or one of more steps than are wanted now. Files with other names
    are nobody's business here. Of several processes all must call; the main one writes and moves.

    Args:
        folder: Where they lie.
        fingerprint: All that decides the run, as JSON.
        ranks: This process among those of the run; a single one by default.
        keep: Which checkpoints stay once newer ones are written.
    """

    def __init__(
        self,
        folder: Path,
        fingerprint: Mapping[str, Any],
        ranks: Ranks | None = None,
        keep: Keep | None = None,
    ) -> None:
        self._folder = folder
        self._ranks = ranks or Ranks(torch.device("cpu"))
        self._fingerprint = dict(fingerprint)
        self._last = keep.last if keep else LAST
        self._every = keep.every if keep else None

    def newest(self, *, at_most: int) -> Checkpoint | None:
        """The newest whole checkpoint with no more than ``at_most`` steps, or None."""
        with self._ranks.main_first():  # what is of no use is gone before the others look
            if self._ranks.is_main:
                self._take_back(at_most)
            own = {}
            for path in reversed(self.complete()):  # all: none of another run may count as ours
                with self._setting_aside(path):
                    own[path] = self._own_state(path, at_most)
            for path, state in own.items():
                with self._setting_aside(path):
                    return read_checkpoint(path, state)
        return None

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write a checkpoint and drop those that need not stay; all or nothing.

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
                sharded_checkpoint.write(checkpoint.tensors, temporary / SHARDS)
            if self._ranks.is_main:
                self._write(checkpoint, temporary)
                os.replace(temporary, path)
                _sync(self._folder)
        except (OSError, SafetensorError, RuntimeError) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise InputError(
                f"{path}: checkpoint cannot be written ({error}); make room or mend the folder, "
                "then run `tgo train` again: it continues from the checkpoint before"
            ) from error
        if self._ranks.is_main:
            for old in self._superfluous():
                shutil.rmtree(old)
        self._ranks.barrier()
        return path

    def complete(self) -> list[Path]:
        """Folders that were committed, fewest steps first."""
        found = self._folder.glob("step-*")
        return sorted(path for path in found if NAME.fullmatch(path.name) and path.is_dir())

    def last_good(self) -> str:
        """In words, for whoever has to stop a run: what can be continued from."""
        complete = self.complete()
        if complete:
            return f"the last good checkpoint is {complete[-1]}"
        return "no checkpoint was written before (train.checkpoint_every)"

    def _superfluous(self) -> list[Path]:
        older = self.complete()[: -self._last]
        return [path for path in older if self._every is None or step_of(path) % self._every]

    @contextmanager
    def _setting_aside(self, path: Path) -> Iterator[None]:
        """Inside, a checkpoint that turns out to be of no use goes out of the way."""
        try:
            yield
        except _UnusableError as reason:
            if self._ranks.is_main:
                self._set_aside(path, reason)

    def _set_aside(self, path: Path, reason: _UnusableError) -> None:
        key = None if reason.identity is None else aside.key_of(reason.identity)
        kind: aside.Kind = "damaged" if key is None else "superseded"
        target = aside.set_aside([path], self._folder, str(reason), kind=kind, key=key)
        logger.warning("train: %s: %s; set aside in %s", path, reason, target)

    def _take_back(self, at_most: int) -> None:
        """Bring back what was set aside of this very run."""
        entry = aside.find(self._folder, aside.key_of(self._fingerprint))
        if entry is None:
            return
        for name in entry.names:
            target = self._folder / name
            if NAME.fullmatch(name) and step_of(target) <= at_most and not target.exists():
                aside.take_back(entry, name, target)
                logger.info("train: %s: taken up again, its settings are back", target)

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
            "sha256": {name: _sha256_of(folder / name) for name in names},
        }
        text = json.dumps({"state": state, "sha256": _json_sha256(state)}, indent=1)
        (folder / STATE).write_text(text, encoding="utf-8")
        for name in (*names, STATE, *([SHARDS] if self._ranks.sharded else []), "."):
            _sync(folder / name)

    def _own_state(self, path: Path, at_most: int) -> dict[str, Any]:
        state = read_state(path)
        if changed := difference(state["fingerprint"], self._fingerprint):
            raise _UnusableError(f"of another run ({changed})", state["fingerprint"])
        if state["step"] > at_most:
            raise _UnusableError(f"beyond train.steps = {at_most}", state["fingerprint"])
        return state


def read_checkpoint(path: Path, state: Mapping[str, Any]) -> Checkpoint:
    """What a folder holds whose ``read_state`` is ``state``; checksums are verified."""
    for name, expected in state["sha256"].items():
        if _sha256_of(path / name) != expected:
            raise _UnusableError(f"damaged ({name} is not as it was written)")
    return Checkpoint(
        step=state["step"],
        progress=state["progress"],
        log=(path / LOG).read_text(encoding="utf-8"),
        objective=state["objective"],
        **({"shards": shards} if (shards := path / SHARDS).is_dir() else _read_tensors(path)),
    )


def step_of(path: Path) -> int:
    """Steps done, from the name of a checkpoint's folder."""
    return int(path.name.removeprefix("step-"))


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


def _sha256_of(path: Path) -> str | None:
    """sha256 of a file's bytes; None where it is missing. What cannot be read is no damage."""
    try:
        return file_sha256(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreadable(path, error) from error


def read_state(path: Path) -> dict[str, Any]:
    """What ``state.json`` of a checkpoint says, verified by its own checksum."""
    try:
        stored = json.loads((path / STATE).read_text(encoding="utf-8"))
        state = stored["state"]
        whole = stored["sha256"] == _json_sha256(state)
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _UnusableError(f"damaged ({STATE} cannot be read)") from error
    except OSError as error:
        raise _unreadable(path / STATE, error) from error
    if not whole:
        raise _UnusableError(f"damaged ({STATE} is not as it was written)")
    return state


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(
        f"{path}: cannot be read ({error.strerror}); mend that and run `tgo train` again, "
        "nothing was changed"
    )


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
