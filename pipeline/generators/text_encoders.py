"""What reads a prompt: tokenizers and text encoders, on the device as long as they are used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tgo.pipeline.generators.model_folder import ModelFolder
from torch import nn


class TextEncoders:
    """The parts of a model folder that read prompts, each loaded when it is first asked for.

    Training, which has the prompts' conditions, needs none of them.
    """

    def __init__(self, folder: ModelFolder, dtype: torch.dtype, device: torch.device) -> None:
        self._folder, self._dtype, self._device = folder, dtype, device
        self._parts: dict[str, Any] = {}

    def part(self, name: str) -> Any:
        """A tokenizer, or a text encoder on the device."""
        if name not in self._parts:
            found = self._folder.load(name, self._dtype)
            is_network = isinstance(found, nn.Module)
            self._parts[name] = found.to(self._device) if is_network else found
        return self._parts[name]

    def tokens(self, tokenizer: str, prompts: Sequence[str], length: int | None = None) -> Any:
        """`input_ids` and `attention_mask` [B, length], padded and cut, on the device."""
        words = self.part(tokenizer)
        return words(
            list(prompts),
            padding="max_length",
            max_length=length or words.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).to(self._device)

    def release(self) -> None:
        """Free what is loaded; it comes again with the next prompt."""
        self._parts.clear()
