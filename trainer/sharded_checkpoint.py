"""Checkpoints of weights that lie in parts (FSDP2), through torch's distributed checkpoint.

Every process writes its own parts, and any number of processes reads them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer

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
    """What ``folder`` holds, in the layout of the tree ``own``, which stays as it is."""
    tensors = {name: _copied(value) for name, value in own.items()}
    dcp.load(tensors, checkpoint_id=folder)
    return tensors


def _copied(value: Any) -> Any:
    """A tree of dictionaries with copies of its tensors."""
    if isinstance(value, dict):
        return {key: _copied(entry) for key, entry in value.items()}
    return value.detach().clone() if isinstance(value, Tensor) else value
