"""Where modules that diffusers names lie in networks as their authors name and fuse them.

kohya's tools read most transformers so: sd-scripts SD3, FLUX and Chroma, musubi-tuner FLUX.2,
Qwen-Image, Z-Image and Wan. ComfyUI reads Wan so and all others by diffusers' names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Place(NamedTuple):
    """A module, or the rows that it has of a fused one.

    Attributes:
        module: The name there.
        start: First row of its output there, as a multiple of `Place.unit`.
        size: Number of rows, likewise.
        total: Rows of the fused module, likewise.
    """

    module: str
    start: int = 0
    size: int = 1
    total: int = 1

    def unit(self, rows: int) -> int:
        """Rows of one projection, where this module has so many."""
        return rows // self.size


def _fused(module: str, parts: Mapping[str, int]) -> dict[str, Place]:
    """Places of `parts`, with their sizes, one after the other in `module`."""
    places, start, total = {}, 0, sum(parts.values())
    for part, size in parts.items():
        places[part] = Place(module, start, size, total)
        start += size
    return places


def _qkv(module: str, attention: str, names: tuple[str, ...] = ("to_q", "to_k", "to_v")) -> _Table:
    return _fused(module, {f"{attention}.{name}": 1 for name in names})


_Table = dict[str, Place]
_ADDED = ("add_q_proj", "add_k_proj", "add_v_proj")
_DOUBLE: _Table = {
    **_qkv("img_attn.qkv", "attn"),
    **_qkv("txt_attn.qkv", "attn", _ADDED),
    "attn.to_out.0": Place("img_attn.proj"),
    "attn.to_add_out": Place("txt_attn.proj"),
    "ff.net.0.proj": Place("img_mlp.0"),
    "ff.net.2": Place("img_mlp.2"),
    "ff_context.net.0.proj": Place("txt_mlp.0"),
    "ff_context.net.2": Place("txt_mlp.2"),
}
_FLUX: dict[str, tuple[str, _Table]] = {
    "transformer_blocks": (
        "double_blocks",
        _DOUBLE
        | {"norm1.linear": Place("img_mod.lin"), "norm1_context.linear": Place("txt_mod.lin")},
    ),
    "single_transformer_blocks": (
        "single_blocks",
        {
            **_fused("linear1", {"attn.to_q": 1, "attn.to_k": 1, "attn.to_v": 1, "proj_mlp": 4}),
            "proj_out": Place("linear2"),
            "norm.linear": Place("modulation.lin"),
        },
    ),
}
_FLUX2: dict[str, tuple[str, _Table]] = {
    "transformer_blocks": (
        "double_blocks",
        _DOUBLE
        | {
            "ff.linear_in": Place("img_mlp.0"),
            "ff.linear_out": Place("img_mlp.2"),
            "ff_context.linear_in": Place("txt_mlp.0"),
            "ff_context.linear_out": Place("txt_mlp.2"),
        },
    ),
    "single_transformer_blocks": (
        "single_blocks",
        {"attn.to_qkv_mlp_proj": Place("linear1"), "attn.to_out": Place("linear2")},
    ),
}
_SD3: dict[str, tuple[str, _Table]] = {
    "transformer_blocks": (
        "joint_blocks",
        {
            **_qkv("x_block.attn.qkv", "attn"),
            **_qkv("x_block.attn2.qkv", "attn2"),
            **_qkv("context_block.attn.qkv", "attn", _ADDED),
            "attn.to_out.0": Place("x_block.attn.proj"),
            "attn2.to_out.0": Place("x_block.attn2.proj"),
            "attn.to_add_out": Place("context_block.attn.proj"),
            "ff.net.0.proj": Place("x_block.mlp.fc1"),
            "ff.net.2": Place("x_block.mlp.fc2"),
            "ff_context.net.0.proj": Place("context_block.mlp.fc1"),
            "ff_context.net.2": Place("context_block.mlp.fc2"),
        },
    )
}
_WAN: dict[str, tuple[str, _Table]] = {
    "blocks": (
        "blocks",
        {
            **{
                f"{ours}.{part}": Place(f"{theirs}.{letter}")
                for ours, theirs in (("attn1", "self_attn"), ("attn2", "cross_attn"))
                for part, letter in (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "o"))
            },
            "ffn.net.0.proj": Place("ffn.0"),
            "ffn.net.2": Place("ffn.2"),
        },
    )
}
_RENAMED = {"sd3": _SD3, "flux": _FLUX, "chroma": _FLUX, "flux2": _FLUX2, "wan": _WAN}
"""Families whose authors' names differ from diffusers'."""


def authors_place(family: str, module: str) -> Place | None:
    """Where a module of diffusers' network lies in the authors'.

    Args:
        family: the generator's, such as flux.
        module: its name in diffusers, such as transformer_blocks.0.attn.to_q.

    Returns:
        Its place; None where the authors' network has no such module.
    """
    if family not in _RENAMED:
        return Place(module)
    blocks, _, rest = module.partition(".")
    number, _, part = rest.partition(".")
    name, table = _RENAMED[family].get(blocks, ("", {}))
    place = table.get(part)
    return place and place._replace(module=f"{name}.{number}.{place.module}")
