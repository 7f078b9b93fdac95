"""Checkpoints of weights that lie in parts (FSDP2), through torch's distributed checkpoint.

Every process writes its own parts, and any number of processes reads them. torch reads what is no
tensor, and the file that says where tensors lie, as pickles that may run any code; here they may
name nothing but the checkpoint's own classes.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import ReadItem
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer

from tgo.pipeline.errors import InputError

_CLASSES = {
    "collections": ("OrderedDict",),
    "pathlib": ("PosixPath",),
    "torch": (
        "Size",
        "bfloat16",
        "bool",
        "float16",
        "float32",
        "float64",
        "int32",
        "int64",
        "uint8",
    ),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
    "torch.distributed.checkpoint.metadata": (
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    ),
    "torch.serialization": ("_get_layout",),
}
"""What a checkpoint's index may name, by module."""
_OPTIONS = StateDictOptions(flatten_optimizer_state_dict=True, ignore_frozen_params=True)


def optimizer_state(network: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """The state by parameter name, of each tensor this process's part."""
    return get_optimizer_state_dict(network, optimizer, options=_OPTIONS)


def set_optimizer(network: nn.Module, optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Give the optimizer what `optimizer_state` gave."""
    set_optimizer_state_dict(network, optimizer, state, options=_OPTIONS)


def write(tensors: dict[str, Any], folder: Path) -> None:
    """Write a tree of tensors, of each this process's part; all processes must call."""
    dcp.save(tensors, checkpoint_id=folder)


def read(own: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What ``folder`` holds, in the layout of the tree ``own``, which stays as it is.

    Raises InputError: a file in it names code that no checkpoint needs.
    """
    tensors = {name: _copied(value) for name, value in own.items()}
    reader, alone = _Reader(folder), not dist.is_initialized()
    try:
        reader.read_metadata()  # dcp.load would hide what is wrong with it
        dcp.load(tensors, storage_reader=reader, planner=_Planner(), no_dist=alone)
    except pickle.UnpicklingError as error:
        raise _foreign(folder, error) from error
    except dcp.CheckpointException as error:
        for fault, _ in error.failures.values():
            if isinstance(fault, pickle.UnpicklingError):
                raise _foreign(folder, fault) from error
        raise
    return tensors


def _foreign(folder: Path, fault: BaseException) -> InputError:
    reason = str(fault).splitlines()[0]
    return InputError(f"{folder}: was not written here ({reason}); remove this checkpoint")


class _Unpickler(pickle.Unpickler):
    """Reads pickles that name the classes of a checkpoint's index and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if name in _CLASSES.get(module, ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}")


class _Reader(dcp.FileSystemReader):
    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with self.fs.create_stream(self._get_metadata_path(kwargs.get("rank")), "rb") as file:
            metadata: Metadata = _Unpickler(file).load()
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class _Planner(DefaultLoadPlanner):
    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        # torch's own way reads any pickle, so it is given one that was read safely and written anew
        checked = io.BytesIO()
        torch.save(torch.load(value, weights_only=True), checked)
        checked.seek(0)
        super().load_bytes(read_item, checked)


def _copied(value: Any) -> Any:
    """A tree of dictionaries with copies of its tensors."""
    if isinstance(value, dict):
        return {key: _copied(entry) for key, entry in value.items()}
    return value.detach().clone() if isinstance(value, Tensor) else value
