"""Text embeddings, computed once per unique prompt."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class TextCache:
    """Embeddings of prompts by their text, the least recently used forgotten first.

    Embeddings are equal within float rounding however prompts are grouped, but not always bit
    for bit. Where bytes matter, `forget` at the points where work may be resumed.
    """

    def __init__(
        self, encode: Callable[[Sequence[str]], Tensor], *, chunk: int = 64, capacity: int = 8192
    ) -> None:
        """`encode` maps at most `chunk` prompts to float32 embeddings [N, D]."""
        self._encode = encode
        self._chunk = chunk
        self._capacity = capacity
        self._known: OrderedDict[str, Tensor] = OrderedDict()

    def rows(self, prompts: Sequence[str]) -> Tensor:
        """One embedding per prompt, float32 [B, D], on the encoder's device."""
        unique = list(dict.fromkeys(prompts))
        new = [prompt for prompt in unique if prompt not in self._known]
        for start in range(0, len(new), self._chunk):
            part = new[start : start + self._chunk]
            self._known.update(zip(part, self._encode(part), strict=True))
        rows = torch.stack([self._known[prompt] for prompt in prompts])
        for prompt in unique:
            self._known.move_to_end(prompt)
        while len(self._known) > self._capacity:
            self._known.popitem(last=False)
        return rows

    def forget(self) -> None:
        """Drops every cached embedding."""
        self._known.clear()
