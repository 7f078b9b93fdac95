"""Models without weights: built from their config.json files, to count what they compute and hold.

Tensors are torch's fake ones: they have shapes and types and cost no memory, so the code that
samples and trains can be run on a model of any size, in seconds, and watched.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tgo.pipeline.generators import components
from tgo.pipeline.generators.model_folder import ModelFolder


class ConfigFolder(ModelFolder):
    """A model folder of which configurations, tokenizers and scheduler are read, and no weights.

    Args:
        source: path of a folder.
        mode: makes the tensors of the networks fake.
    """

    def __init__(self, source: str, mode: FakeTensorMode) -> None:
        super().__init__(source)
        self._mode = mode

    def check(self, parts: tuple[str, ...]) -> None:
        """Nothing: weights may be absent."""

    def load(
        self,
        part: str,
        dtype: torch.dtype | None = None,
        *,
        kind: type[Any] | None = None,
        quantization: str | None = None,
        device: torch.device | None = None,
    ) -> Any:
        """The component, a network with fake tensors; arguments as of `ModelFolder.load`."""
        kind = kind or components.component_class(self.index.get(part), self.path, part)
        if not issubclass(kind, nn.Module):
            return components.load_settings(self.path / part, kind, self.remedy)
        with components.reading(self.path / part, self.remedy):
            network = self._built(part, kind, dtype or torch.float32)
        return network.eval().requires_grad_(False)

    def _built(self, part: str, kind: type[Any], dtype: torch.dtype) -> nn.Module:
        before = torch.get_default_dtype()
        try:
            torch.set_default_dtype(dtype)
            with torch.device("meta"):
                network = self._from_config(part, kind)
        finally:
            torch.set_default_dtype(before)
        kept = tuple(getattr(network, "_keep_in_fp32_modules", None) or ())
        given: dict[Tensor, nn.Parameter] = {}  # a weight that two modules share stays one
        for name, module in network.named_modules():
            own = torch.float32 if any(each in name for each in kept) else dtype
            self._give_fake_tensors(module, own, given)
        network.to = lambda *_, **__: network  # type: ignore[method-assign]  # already there
        return network

    def _from_config(self, part: str, kind: type[Any]) -> nn.Module:
        network: nn.Module
        if hasattr(kind, "from_config"):  # of diffusers
            network = kind.from_config(self.config(part))
        else:
            network = kind(kind.config_class.from_pretrained(self.path / part))
        return network

    def _give_fake_tensors(
        self, module: nn.Module, dtype: torch.dtype, given: dict[Tensor, nn.Parameter]
    ) -> None:
        """Replace a module's own meta tensors by fake ones on the CPU."""

        def fake(tensor: Tensor) -> Tensor:
            kind = dtype if tensor.is_floating_point() else tensor.dtype
            with self._mode:
                return torch.empty(tensor.shape, dtype=kind, device="cpu")

        for name, parameter in module._parameters.items():
            if parameter is not None:
                if parameter not in given:
                    given[parameter] = nn.Parameter(fake(parameter), requires_grad=False)
                module._parameters[name] = given[parameter]
        for held in (module._buffers, vars(module)):
            for name, tensor in list(held.items()):
                if isinstance(tensor, Tensor) and tensor.is_meta:
                    held[name] = fake(tensor)


_ATTENTION = "scaled_dot_product_attention"


def _fused(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if enable_gqa:
        times = query.size(-3) // key.size(-3)
        key, value = (each.repeat_interleave(times, -3) for each in (key, value))
    if attn_mask is not None:
        attn_mask = attn_mask.to(query.dtype)
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    kept: Tensor = fused(query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)[
        0
    ]
    return kept


_FLOAT32 = ("group_norm", "layer_norm")
"""What autocast computes in float32 on a GPU, and in its own type on a CPU."""


@contextmanager
def kernels(*, gpu: bool = False) -> Iterator[None]:
    """Inside, functions are counted as devices compute them.

    Attention without a matrix of all pairs; with `gpu`, which wants autocast, norms in float32.
    """
    functional = nn.functional
    stock = {name: getattr(functional, name) for name in (*_FLOAT32, _ATTENTION)}

    def in_float32(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda values, *given, **named: function(values.float(), *given, **named)

    try:
        setattr(functional, _ATTENTION, _fused)
        for name in _FLOAT32 if gpu else ():
            setattr(functional, name, in_float32(stock[name]))
        yield
    finally:
        for name, function in stock.items():
            setattr(functional, name, function)


class Watch(TorchDispatchMode):
    """Bytes of the tensors that are made inside and live: now, and at most.

    Args:
        network: what was there before: its weights do not count.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.now = self.peak = 0
        weights = (*network.parameters(), *network.buffers())
        self._known = {tensor.untyped_storage()._cdata for tensor in weights}
        self._alive: dict[int, Any] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor):
                self._see(tensor)
        self.peak = max(self.peak, self.now)
        return found

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known or key in self._alive:
            return
        self.now += size
        self._alive[key] = weakref.ref(storage, lambda _: self._forget(key, size))

    def _forget(self, key: int, size: int) -> None:
        if self._alive.pop(key, None) is not None:
            self.now -= size
