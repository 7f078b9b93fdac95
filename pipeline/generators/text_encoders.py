"""What reads a prompt: tokenizers and text encoders, on the device as long as they are used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from tgo.pipeline.errors import InputError
from tgo.pipeline.generators.model_folder import ModelFolder
from tgo.pipeline.generators.quantization import is_quantized, place

LONGEST = 1 << 16
"""More tokens than any text encoder reads: a tokenizer that says more was not told its length."""


class TextEncoders:
    """The parts of a model folder that read prompts, each loaded when it is first asked for.

    Training, which has the prompts' conditions, needs none of them. With `offload` they lie in the
    CPU's memory between `rest` and their next use, so that the network has the device to itself;
    quantised ones cannot be moved and are loaded again.
    """

    def __init__(
        self,
        folder: ModelFolder,
        dtype: torch.dtype,
        device: torch.device,
        *,
        quantization: str | None = None,
        offload: bool = False,
    ) -> None:
        self._folder, self._dtype, self._device = folder, dtype, device
        self._quantization, self._offload = quantization, offload
        self._parts: dict[str, Any] = {}

    def part(self, name: str) -> Any:
        """A tokenizer, or a text encoder on the device.

        Raises InputError: it is damaged, or the tokenizer has words that its encoder does
        not know.
        """
        if name not in self._parts:
            # CLIP's are small, and are not quantised in public recipes
            small = self._folder.class_name(name).startswith("CLIP")
            method = None if small else self._quantization
            loaded = self._folder.load(name, self._dtype, quantization=method, device=self._device)
            if not isinstance(loaded, nn.Module):
                self._require_known_words(name, loaded)
            self._parts[name] = loaded
        found = self._parts[name]
        return place(found, self._device) if isinstance(found, nn.Module) else found

    def tokens(self, tokenizer: str, prompts: Sequence[str], length: int | None = None) -> Any:
        """Tokens of prompts, padded and cut to one length.

        Args:
            tokenizer: name of the part.
            prompts: B texts.
            length: tokens L of a prompt; None for the tokenizer's own.

        Returns:
            `input_ids` and `attention_mask`, both int64 [B, L], on the device.
        """
        words = self.part(tokenizer)
        length = length or words.model_max_length
        if length > LONGEST:
            raise InputError(
                f"{self._folder.path / tokenizer}: does not say how many tokens a prompt has "
                "(model_max_length in tokenizer_config.json); add the model's own "
                "tokenizer_config.json"
            )
        return words(
            list(prompts),
            padding="max_length",
            max_length=length,
            truncation=True,
            return_tensors="pt",
        ).to(self._device)

    def rest(self) -> None:
        """Leave the device until the next prompt, where `offload` asks for it."""
        if not self._offload:
            return
        for name, part in list(self._parts.items()):
            if isinstance(part, nn.Module) and is_quantized(part):
                del self._parts[name]
            elif isinstance(part, nn.Module):
                part.to("cpu")

    def release(self) -> None:
        """Free what is loaded; it is loaded again with the next prompt."""
        self._parts.clear()

    def _require_known_words(self, name: str, tokenizer: Any) -> None:
        """InputError if the tokenizer has more words than its text encoder has embeddings."""
        encoder = name.replace("tokenizer", "text_encoder")
        if not (self._folder.path / encoder).is_dir():
            return
        config = self._folder.config(encoder)
        rows = config.get("vocab_size", config.get("text_config", {}).get("vocab_size"))
        words = getattr(tokenizer, "tokenizer", tokenizer)  # of a processor
        if rows is not None and len(words) > int(rows):
            raise InputError(
                f"{self._folder.path / name}: has {len(words)} tokens, but {encoder} has "
                f"embeddings for {rows}; use the tokenizer and text encoder of one model (a token "
                "of textual inversion needs its row in the encoder, too)"
            )
