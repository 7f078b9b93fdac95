"""Adapters of every family under the names of other programs, and back into diffusers."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, FluxPipeline
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests import adapters, family_models
from tests.families import FAMILY_OF
from tgo.pipeline.errors import InputError
from tgo.pipeline.generators.adapters import write
from tgo.pipeline.generators.base_model import BaseModel
from tgo.pipeline.layout import LORA
from tgo.pipeline.publishing import lora_formats
from tgo.pipeline.publishing.lora_formats import Format

KINDS = ["sd15", "sdxl", "sd3", "flux", "chroma", "flux2", "qwenimage", "zimage", "wan"]
FEED_FORWARD = {
    "sd15": ["ff.net.2"],
    "sdxl": ["ff.net.2"],
    "sd3": ["ff.net.0.proj", "ff.net.2", "add_q_proj", "add_v_proj", "to_add_out"],
    "flux": ["ff.net.0.proj", "proj_mlp", "0.proj_out", "add_k_proj", "norm1.linear"],
    "chroma": ["ff.net.2", "proj_mlp", "add_k_proj"],
    "flux2": [
        "to_qkv_mlp_proj",
        "single_transformer_blocks.0.attn.to_out",
        "ff.linear_in",
        "ff_context.linear_out",
    ],
    "qwenimage": ["add_q_proj", "to_add_out", "img_mlp.net.2"],
    "zimage": ["feed_forward.w1", "feed_forward.w2"],
    "wan": ["ffn.net.0.proj", "ffn.net.2"],
}
"""What is adapted beside the projections of attention."""
UNET = r"lora_unet_(down|up|mid)_blocks?_.*_(attn[12]_to_([qkv]|out_0)|ff_net_(0_proj|2))"
TWO_STREAMS = r"attn\.(to_([qkv]|out\.0|add_out)|add_[qkv]_proj)"
ACCEPTED: dict[tuple[str, str], str] = {
    ("comfyui", "sd15"): UNET,
    ("comfyui", "sdxl"): UNET,
    ("comfyui", "sd3"): rf"transformer\.transformer_blocks\.\d+\.(attn2\.to_([qkv]|out\.0)"
    rf"|{TWO_STREAMS}|ff(_context)?\.net\.(0\.proj|2))",
    ("comfyui", "flux"): rf"transformer\.(transformer_blocks\.\d+\.({TWO_STREAMS}"
    r"|ff(_context)?\.net\.(0\.proj|2)|norm1(_context)?\.linear)"
    r"|single_transformer_blocks\.\d+\.(attn\.to_[qkv]|proj_(mlp|out)|norm\.linear))",
    ("comfyui", "flux2"): rf"transformer\.(transformer_blocks\.\d+\.({TWO_STREAMS}"
    r"|ff(_context)?\.linear_(in|out))"
    r"|single_transformer_blocks\.\d+\.attn\.to_(qkv_mlp_proj|out))",
    ("comfyui", "qwenimage"): rf"transformer\.transformer_blocks\.\d+\.({TWO_STREAMS}"
    r"|(img|txt)_mlp\.net\.(0\.proj|2))",
    ("comfyui", "zimage"): r"transformer\.(layers|(noise|context)_refiner)\.\d+\."
    r"(attention\.to_([qkv]|out\.0)|feed_forward\.w[123])",
    ("comfyui", "wan"): r"diffusion_model\.blocks\.\d+\.((self|cross)_attn\.[qkvo]|ffn\.[02])",
    ("kohya", "sd15"): UNET,
    ("kohya", "sdxl"): UNET,
    ("kohya", "sd3"): r"lora_unet_joint_blocks_\d+_(x_block_attn2?|context_block_attn)_(qkv|proj)"
    r"|lora_unet_joint_blocks_\d+_(x|context)_block_mlp_fc[12]",
    ("kohya", "flux"): r"lora_unet_double_blocks_\d+_(img|txt)_(attn_(qkv|proj)|mlp_[02]|mod_lin)"
    r"|lora_unet_single_blocks_\d+_(linear[12]|modulation_lin)",
    ("kohya", "flux2"): r"lora_unet_double_blocks_\d+_(img|txt)_(attn_(qkv|proj)|mlp_[02])"
    r"|lora_unet_single_blocks_\d+_linear[12]",
    ("kohya", "qwenimage"): r"lora_unet_transformer_blocks_\d+_((img|txt)_mlp_net_(0_proj|2)"
    r"|attn_(to_([qkv]|out_0|add_out)|add_[qkv]_proj))",
    ("kohya", "zimage"): r"lora_unet_(layers|(noise|context)_refiner)_\d+_"
    r"(attention_to_([qkv]|out_0)|feed_forward_w[123])",
    ("kohya", "wan"): r"lora_unet_blocks_\d+_((self|cross)_attn_[qkvo]|ffn_[02])",
}
"""Names that the programs' loaders map to a module, as far as adapters are trained here."""
NOT_READ_BACK = {("kohya", "sd3"), ("kohya", "flux"), ("kohya", "chroma")}
"""diffusers does not convert SD3's, and FLUX's only at its published width."""


def network(pipeline: Any) -> Any:
    return getattr(pipeline, "unet", None) or pipeline.transformer


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def tuned(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random adapters of a family's random model."""
    folder = family_models.write(kind, tmp_path_factory.mktemp(kind) / "model")
    trained = network(DiffusionPipeline.from_pretrained(folder))
    targets = [*adapters.TARGETS, *FEED_FORWARD[kind]]
    adapters.put_into(trained, alpha=6.0, targets=targets)
    part = "unet" if FAMILY_OF.get(kind, kind) in ("diffusion", "sdxl") else "transformer"
    write(adapters.taken(trained), part, BaseModel(str(folder), "", ""), folder)
    return folder


def written(tuned: Path, kind: str, format: Format) -> Path:
    target = tuned.parent / f"{format}.safetensors"
    lora_formats.write(tuned / LORA, target, format, FAMILY_OF.get(kind, kind))
    return target


def shifts(file: Path, down: str = "lora_A", up: str = "lora_B") -> dict[str, Tensor]:
    """How adapters change each module, by its name."""
    weights = load_file(file)
    return {
        name.removesuffix(f".{down}.weight"): (
            weights[name.replace(down, up)].float() @ weights[name].float()
        )
        for name in weights
        if name.endswith(f".{down}.weight")
    }


@pytest.mark.parametrize("format", ["comfyui", "kohya"])
def test_a_loader_knows_every_key(tuned: Path, kind: str, format: Format) -> None:
    weights = load_file(written(tuned, kind, format))
    pattern = ACCEPTED[format, "flux" if kind == "chroma" else kind]
    modules: dict[str, set[str]] = {}
    for key in weights:
        match = re.fullmatch(r"(.*?)\.(alpha|lora_\w+\.weight)", key)
        assert match, key
        modules.setdefault(match[1], set()).add(match[2])
    assert modules
    for module, ends in modules.items():
        assert re.fullmatch(pattern, module), module
        ends.discard("alpha")  # of those that have none, the rank is taken
        assert ends in ({"lora_A.weight", "lora_B.weight"}, {"lora_down.weight", "lora_up.weight"})
    if format == "kohya":
        down = {key: len(value) for key, value in weights.items() if ".lora_down." in key}
        alphas = {key: float(weights[key.replace("lora_down.weight", "alpha")]) for key in down}
        assert alphas == down


@pytest.mark.slow
@pytest.mark.parametrize("format", ["comfyui", "kohya"])
def test_adapters_come_back_into_diffusers(tuned: Path, kind: str, format: Format) -> None:
    if (format, kind) in NOT_READ_BACK:
        pytest.skip("diffusers reads no such file")
    file = written(tuned, kind, format)
    pipeline = DiffusionPipeline.from_pretrained(tuned)
    pipeline.load_lora_weights(file.parent, weight_name=file.name, adapter_name="found")
    found = {
        name: module.get_delta_weight("found")
        for name, module in network(pipeline).named_modules()
        if hasattr(module, "get_delta_weight")
    }
    wanted = {name.partition(".")[2]: shift for name, shift in shifts(tuned / LORA).items()}
    assert found.keys() == wanted.keys()
    for name, shift in wanted.items():
        torch.testing.assert_close(found[name], shift, atol=2e-3, rtol=5e-3, msg=name)


def test_a_fused_module_shifts_as_its_parts_do(tuned: Path, kind: str) -> None:
    if kind not in ("sd3", "flux", "chroma", "flux2"):
        pytest.skip("its authors fuse no modules")
    parts = {name.partition(".")[2]: s for name, s in shifts(tuned / LORA).items()}
    fused = shifts(written(tuned, kind, "kohya"), "lora_down", "lora_up")
    block = "joint_blocks_0_x_block" if kind == "sd3" else "double_blocks_0_img"
    qkv = torch.cat([parts[f"transformer_blocks.0.attn.to_{name}"] for name in "qkv"])
    close = functools.partial(torch.testing.assert_close, atol=2e-3, rtol=5e-3)
    close(fused[f"lora_unet_{block}_attn_qkv"], qkv)
    if kind in ("flux", "chroma"):
        single = "single_transformer_blocks.0"
        names = ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")
        whole = torch.cat([parts[f"{single}.{name}"] for name in names])
        close(fused["lora_unet_single_blocks_0_linear1"], whole)
    if kind == "flux":  # one of the three is adapted: the others' rows are zeros
        text = fused["lora_unet_double_blocks_0_txt_attn_qkv"]
        key = parts["transformer_blocks.0.attn.add_k_proj"]
        zeros = torch.zeros_like(key)
        close(text, torch.cat([zeros, key, zeros]))


def test_flux_at_its_published_width_comes_back(tmp_path: Path) -> None:
    width, rank = 3072, 2
    sizes = {
        "transformer_blocks.18.attn.to_q": width,
        "transformer_blocks.18.attn.to_k": width,
        "transformer_blocks.18.attn.to_v": width,
        "transformer_blocks.18.attn.to_out.0": width,
        "single_transformer_blocks.37.attn.to_q": width,
        "single_transformer_blocks.37.attn.to_k": width,
        "single_transformer_blocks.37.attn.to_v": width,
    }
    generator = torch.Generator().manual_seed(0)
    weights = {
        f"transformer.{name}.lora_{half}.weight": torch.randn(shape, generator=generator)
        for name, rows in sizes.items()
        for half, shape in (("A", (rank, width)), ("B", (rows, rank)))
    }
    told = f'{{"transformer.r": {rank}, "transformer.lora_alpha": {rank}}}'
    save_file(weights, tmp_path / LORA, {LORA_ADAPTER_METADATA_KEY: told})
    target = tmp_path / "kohya.safetensors"
    lora_formats.write(tmp_path / LORA, target, "kohya", "flux")
    found: Any = FluxPipeline.lora_state_dict(target)
    x = torch.randn(width, generator=generator)
    for name in sizes:
        a, b = (f"transformer.{name}.lora_{half}.weight" for half in "AB")
        shifted = found[b].float() @ (found[a].float() @ x)
        torch.testing.assert_close(shifted, weights[b] @ (weights[a] @ x), atol=0.5, rtol=0.02)
    mlp = found["transformer.single_transformer_blocks.37.proj_mlp.lora_B.weight"]
    assert not mlp.any()


def test_what_a_program_does_not_read_is_refused(tmp_path: Path) -> None:
    weights = {
        f"transformer.norm_out.linear.lora_{half}.weight": torch.zeros(2, 2) for half in "AB"
    }
    told = '{"transformer.r": 2, "transformer.lora_alpha": 2}'
    save_file(weights, tmp_path / LORA, {LORA_ADAPTER_METADATA_KEY: told})
    with pytest.raises(InputError, match=r"kohya: has no adapters for norm_out\.linear; leave it"):
        lora_formats.write(tmp_path / LORA, tmp_path / "out", "kohya", "flux")
    for format in ("comfyui", "kohya"):
        with pytest.raises(InputError, match=f"{format}: reads adapters of .*, not of sana; use"):
            lora_formats.write(tmp_path / LORA, tmp_path / "out", format, "sana")
