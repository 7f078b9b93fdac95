"""Policy and reference: one network or two, in the precision and the parts that the run wants."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tgo.pipeline.errors import InputError
from tgo.trainer import lora
from tgo.trainer.distributed import laid_out_as

if TYPE_CHECKING:
    from tgo.pipeline.config.train_settings import Train
    from tgo.pipeline.generators.base import Family
    from tgo.trainer.distributed import Ranks

_CAST = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layers that autocast computes in bfloat16: their frozen weights can be kept in it as well."""


class PolicyAndReference:
    """The policy and what it is compared with; takes over ``family.network``.

    Both stay in evaluation mode: dropout would make them differ before anything is learnt.
    """

    def __init__(
        self, family: Family, train: Train, ranks: Ranks, *, needs_reference: bool
    ) -> None:
        self._half = train.precision == "bfloat16"
        self._device = ranks.device
        self._adapted = train.lora is not None
        self._recomputes = train.gradient_checkpointing
        network = family.network.eval()
        self._reference: nn.Module | None = None
        self._earlier: list[Tensor] | None = None
        if train.lora is not None:
            lora.add(network, train.lora, family, train.seed)
        else:
            if needs_reference:
                self._reference = copy.deepcopy(network).requires_grad_(False)
                self._halve(self._reference)
                if ranks.sharded:
                    ranks.distribute(self._reference)
            network.requires_grad_(True)
        if train.gradient_checkpointing:
            checkpoint_activations(network)
        for each in filter(None, (network, self._reference)):
            if ranks.device.type == "cuda" and not ranks.sharded:  # FSDP wants weights contiguous
                for convolution in (m for m in each.modules() if isinstance(m, nn.Conv2d)):
                    convolution.to(memory_format=torch.channels_last)
            if train.compile:
                _compile(each, len(set(family.latent_shapes.values())))
        self.policy = ranks.distribute(network)
        """What is called where gradients are wanted."""
        self.network = network
        """The same without what averages gradients."""
        trained = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
        self.names, self.parameters = zip(*trained, strict=True)
        if self._adapted and needs_reference and train.reference == "epoch":
            self._earlier = [parameter.detach().clone() for parameter in self.parameters]

    def autocast(self) -> AbstractContextManager[Any]:
        """Forward passes belong inside, one each: bfloat16 where asked for, weights float32."""
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self._half)

    @contextmanager
    def reference(self) -> Iterator[nn.Module]:
        """The reference to call, without gradient; the policy must not be called inside."""
        with torch.no_grad():
            if self._reference is not None:
                yield self._reference
            elif self._earlier is not None:
                self.exchange(self._earlier)
                try:
                    yield self.network
                finally:
                    self.exchange(self._earlier)
            else:
                with lora.switched_off(self.network):
                    yield self.network

    @contextmanager
    def plain(self) -> Iterator[None]:
        """Inside, what is computed can be counted: not compiled, and no activation twice."""
        with torch.compiler.set_stance("force_eager"):
            if self._recomputes:
                self.network.disable_gradient_checkpointing()  # type: ignore[operator]
            try:
                yield
            finally:
                if self._recomputes:
                    self.network.enable_gradient_checkpointing()  # type: ignore[operator]

    def renew_reference(self) -> None:
        """Make the policy as it is now the reference."""
        self.load_reference(dict(zip(self.names, self.parameters, strict=True)))

    def reference_state(self) -> dict[str, Tensor]:
        """The parameters that `renew_reference` changes, by name."""
        if self._reference is not None:
            return dict(self._reference.named_parameters())
        return dict(zip(self.names, self._earlier or (), strict=True))

    @torch.no_grad()
    def load_reference(self, values: Mapping[str, Tensor]) -> None:
        """Give the reference these parameters."""
        for name, parameter in self.reference_state().items():
            parameter.copy_(laid_out_as(parameter, values[name]))

    @torch.no_grad()
    def load(self, values: Mapping[str, Tensor]) -> None:
        """Give the policy these parameters."""
        for name, parameter in zip(self.names, self.parameters, strict=True):
            parameter.copy_(laid_out_as(parameter, values[name]))

    def _halve(self, network: nn.Module) -> None:
        """Keep frozen weights as autocast makes them at every pass: half of the memory."""
        if not self._half:
            return
        for module in network.modules():
            if isinstance(module, _CAST):
                module.to(torch.bfloat16)

    def exchange(self, others: list[Tensor]) -> None:
        """Swap the policy's parameters for ``others``, and these for them."""
        for parameter, other in zip(self.parameters, others, strict=True):
            parameter.data, other.data = other.data, parameter.data


def _compile(network: nn.Module, sizes: int) -> None:
    """Compile a network, once a size and way of calling: with gradient, without, as reference."""
    from torch._dynamo import config

    config.recompile_limit = max(config.recompile_limit, 3 * sizes)  # beyond it nothing is compiled
    network.compile(dynamic=False)


def checkpoint_activations(network: nn.Module) -> None:
    """Compute activations anew in the backward pass; InputError where the network cannot."""
    try:
        network.enable_gradient_checkpointing()  # type: ignore[operator]
    except (AttributeError, ValueError) as error:
        raise InputError(
            f"train.gradient_checkpointing: {type(network).__name__} cannot ({error}); "
            "set it to false and raise train.gradient_accumulation_steps instead"
        ) from error
