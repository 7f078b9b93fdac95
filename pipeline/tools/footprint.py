"""How much memory the parts of a model take: numbers alone, whoever counted them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Of one number, by type."""
QUANTIZED = {"int8": 1 + 4 / 1024, "nf4": 0.5 + 4 / 64}
"""Bytes of one weight: 8 bits and a float32 a row of about a thousand, 4 bits and one a 64."""


class Part(NamedTuple):
    """A network: its parameters, and how many of them quantization rounds."""

    parameters: int
    linear: int

    def bytes(self, dtype: str, quantization: str | None = None) -> float:
        """Of its weights in a type, those of linear layers in fewer bits where asked for."""
        if quantization is None:
            return float(self.parameters * BYTES[dtype])
        rest = self.parameters - self.linear
        return rest * BYTES[dtype] + self.linear * QUANTIZED[quantization]


@dataclass(frozen=True)
class Footprint:
    """Sizes of a model's parts, and bytes of one image's activations in float32.

    Attributes:
        network: What is trained.
        vae: What decodes.
        texts: What reads prompts.
        predict: A pass of the network without gradient.
        decode: A pass of the decoder.
        adapters: Parameters of adapters of rank 1.
        training: What a forward pass keeps for the backward one, by `variant`, in the type that
            each computes in; casts of trained weights aside. With checkpointing what is held while
            the largest block is computed again.
    """

    network: Part
    vae: Part
    texts: tuple[Part, ...]
    predict: float
    decode: float
    adapters: int
    training: Mapping[str, float]

    def scaled(self, scale: float) -> Footprint:
        """The same with activations of so many times the pixels."""
        return replace(
            self,
            predict=scale * self.predict,
            decode=scale * self.decode,
            training={kind: scale * kept for kind, kept in self.training.items()},
        )


def variant(*, adapted: bool, recomputes: bool, half: bool, on_cpu: bool) -> str:
    """The name of a kind of training step; with checkpointing adapters change little.

    In bfloat16 GPUs normalise in float32 and keep more than CPUs do.
    """
    kind = "checkpointing" if recomputes else "adapters" if adapted else "full"
    return f"{kind}, {'bfloat16' if half else 'float32'}{', CPU' if half and on_cpu else ''}"


VARIANTS: list[dict[str, bool]] = [
    {"adapted": adapted, "recomputes": recomputes, "half": half, "on_cpu": on_cpu}
    for adapted, recomputes in ((False, False), (True, False), (True, True))
    for half, on_cpu in ((False, False), (True, False), (True, True))
]


def from_json(found: Mapping[str, Any]) -> Footprint:
    """A footprint from the values of a JSON file, as `dataclasses.asdict` gives them."""
    parts = {name: Part(*found[name]) for name in ("network", "vae")}
    texts = tuple(Part(*text) for text in found["texts"])
    return Footprint(**{**found, **parts, "texts": texts})
