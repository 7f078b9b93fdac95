"""Linear layers of int8 weights that keep no other copy of them for the backward pass.

torchao's layer multiplies by its weights in the type that computes, and autograd keeps that copy
for the gradient: over all layers the whole network again, in two or four bytes a weight.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class _Product(torch.autograd.Function):
    """Inputs times frozen weights, whose copy is made anew for the gradient."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.dtype = inputs.dtype
        return nn.functional.linear(inputs, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return (gradient @ weight.dequantize().to(gradient.dtype)).to(ctx.dtype), None, None


class FrozenLinear(nn.Linear):
    """A linear layer whose quantised weights are not trained."""

    def forward(self, input: Tensor) -> Tensor:
        """The layer's product.

        Args:
            input: [..., in_features].

        Returns:
            [..., out_features].
        """
        product: Tensor = _Product.apply(input, self.weight, self.bias)
        return product


def keep_quantized(network: nn.Module) -> None:
    """Make a frozen network's layers of torchao's weights `FrozenLinear`, in place."""
    for module in network.modules():
        is_torchao = type(getattr(module, "weight", None)).__module__.startswith("torchao.")
        if type(module) is nn.Linear and is_torchao:
            module.__class__ = FrozenLinear
