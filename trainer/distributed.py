"""The processes of a run: one, or those that torchrun started, each with a share of every batch.

With ``train.parallel: ddp`` every process holds all weights and gradients are averaged; with
``fsdp`` weights, gradients, moving average and optimizer state lie in parts (FSDP2). Which samples
a step has, and what it draws, does not depend on how many processes there are.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tgo.pipeline.config.objectives import unequal_parts
from tgo.pipeline.errors import InputError

if TYPE_CHECKING:
    from tgo.pipeline.config.train_settings import Train

logger = logging.getLogger("tgo.trainer")


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run; a single one exchanges nothing."""

    device: torch.device
    rank: int = 0
    size: int = 1
    sharded: bool = False
    """Whether weights lie in parts (FSDP2)."""
    cpu_group: Any = None
    """Process group on the CPU: what it exchanges waits for no device."""

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    def mean(self, values: Tensor) -> Tensor:
        """Mean over the whole batch of which this process has an equal share."""
        found = values.mean()
        if self.size > 1:
            dist.all_reduce(found)
            found = found / self.size
        return found

    def sum(self, values: Tensor) -> Tensor:
        """Sum over all processes, elementwise, as a new tensor."""
        found = values.clone()
        if self.size > 1:
            dist.all_reduce(found)
        return found

    def max(self, number: int) -> int:
        """The highest of all processes' numbers; no device is waited for."""
        if self.size == 1:
            return number
        found = torch.tensor(number)
        dist.all_reduce(found, op=dist.ReduceOp.MAX, group=self.cpu_group)
        return int(found)

    def barrier(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.barrier(group=self.cpu_group)

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """The first process does what is inside before all others."""
        if not self.is_main:
            self.barrier()
        try:
            yield
        finally:
            if self.is_main:
                self.barrier()

    def rows(self, batch_size: int) -> range:
        """The places of this process's samples in each global batch."""
        share = batch_size // self.size
        return range(self.rank * share, (self.rank + 1) * share)

    def distribute(self, network: nn.Module) -> nn.Module:
        """The network to call where gradients are wanted; `network` itself is changed for FSDP."""
        if self.sharded:
            return shard(network)
        if self.size == 1:
            return network
        devices = [self.device.index] if self.device.type == "cuda" else None
        return _Replica(
            network, device_ids=devices, broadcast_buffers=False, gradient_as_bucket_view=True
        )


class _Replica(DistributedDataParallel):
    """A network whose gradients are averaged; it answers for what families ask of a network."""

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "module":
                raise
            return getattr(self.module, name)


def shard(network: nn.Module) -> nn.Module:
    """Lay out a network's parameters in parts over all processes, block by block (FSDP2)."""
    from torch.distributed.fsdp import fully_shard

    blocks = set(getattr(network, "_no_split_modules", None) or ())
    for module in reversed(list(network.modules())):  # what lies inside comes before what holds it
        if type(module).__name__ in blocks:
            fully_shard(module)
    fully_shard(network)
    return network


def gradient_sync(network: nn.Module, last: bool) -> AbstractContextManager[Any]:
    """Around a backward pass: gradients are exchanged in the last of a step alone."""
    if isinstance(network, _Replica) and not last:
        return network.no_sync()
    if hasattr(network, "set_requires_gradient_sync"):
        network.set_requires_gradient_sync(last)  # type: ignore[operator]
    return nullcontext()


def reshard(network: nn.Module) -> None:
    """After a forward pass without a backward one: FSDP keeps the root's weights whole for it."""
    if hasattr(network, "reshard"):
        network.reshard()  # type: ignore[operator]


def full_tensor(tensor: Tensor) -> Tensor:
    """A tensor that may lie in parts, gathered; every process must ask for it."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def laid_out_as(like: Tensor, tensor: Tensor) -> Tensor:
    """A whole tensor in parts as ``like`` lies; itself where ``like`` is whole, or it is in parts.

    Every process must ask for it, with the same values.
    """
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor) or isinstance(tensor, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)


@contextmanager
def process_group(device: torch.device, parallel: str) -> Iterator[Ranks]:
    """Join the process group that torchrun announced, if any; left at the end.

    Raises InputError if several processes were announced, but not how they find each other.
    """
    if "WORLD_SIZE" not in os.environ:
        yield Ranks(device)
        return
    if "MASTER_ADDR" not in os.environ:
        raise InputError(
            "WORLD_SIZE: is set, but MASTER_ADDR is not, so processes cannot find each other; "
            "start with torchrun (docs/scale.md), or unset WORLD_SIZE"
        )
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    level = logger.level
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        # others may wait for the first process as long as it takes, for sample images say
        cpu_group = dist.new_group(backend="gloo", timeout=timedelta(days=1))
        sharded = parallel == "fsdp"
        if dist.get_rank() > 0:  # all say the same: the main process is enough
            logger.setLevel(logging.CRITICAL)
        yield Ranks(device, dist.get_rank(), dist.get_world_size(), sharded, cpu_group)
    finally:
        logger.setLevel(level)
        dist.destroy_process_group()


def check_settings(train: Train, ranks: Ranks) -> None:
    """Refuse what processes cannot do together, such as to share a batch unequally."""
    if fault := unequal_parts(train, ranks.size):
        raise InputError(fault)
    if ranks.sharded and train.samples is not None:
        raise InputError(
            "train.samples: cannot be drawn while weights lie in parts; set it to null, "
            "or train.parallel to ddp"
        )
    if ranks.sharded and train.reference_cache is not None:
        raise InputError(
            "train.reference_cache: cannot be filled while weights lie in parts; set it to null, "
            "or train.parallel to ddp"
        )
    if ranks.sharded and train.optimizer != "adamw":
        raise InputError(
            f"train.optimizer: {train.optimizer} cannot keep its state in parts; set it to adamw, "
            "or train.parallel to ddp"
        )
    if ranks.sharded and train.lora is not None and train.reference == "epoch":
        raise InputError(
            "train.reference: adapters in parts cannot be exchanged for earlier ones; set it to "
            "initial, or train.parallel to ddp"
        )
