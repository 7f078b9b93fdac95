"""Published text-to-image models by their configurations, for counting: no weights, no network.

    python -m benchmarks.published_models       writes pipeline/tools/known_models.json

The configurations are those of the repositories' config.json files; sizes of text encoders are
given, since counting runs the network and the VAE alone.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import torch

from benchmarks.generator_sizes import FULL_VAE, SIZES
from tgo.pipeline.config import settings as params
from tgo.pipeline.tools import costs
from tgo.pipeline.tools.counting import Counter
from tgo.pipeline.tools.footprint import VARIANTS, Part, variant

Shapes = Mapping[str, tuple[int, ...]]
CLIP_L, CLIP_G, CLIP_H = Part(123_060_480, 0), Part(694_659_840, 0), Part(354_032_640, 0)
T5 = Part(4_762_310_656, 4_630_511_616)
GEMMA = Part(2_614_341_888, 2_024_460_288)
QWEN_VL = Part(8_292_166_656, 7_201_619_968)
QWEN_4B = Part(4_022_468_096, 3_633_315_840)
QWEN_8B = Part(8_190_735_360, 7_567_572_992)
MISTRAL = Part(24_011_361_280, 23_340_000_000)


class Published(NamedTuple):
    """A model of a hub repository."""

    family: str
    network: tuple[str, Mapping[str, Any]]
    """Class and configuration."""
    vae: tuple[str, Mapping[str, Any]]
    texts: tuple[Part, ...]
    conditions: Shapes
    scheduler: str = "FlowMatchEulerDiscreteScheduler"
    masks: Sequence[str] = ()
    """Conditions that are masks."""


def _kl(channels: int, **more: Any) -> tuple[str, Mapping[str, Any]]:
    levels = len(FULL_VAE)
    return "AutoencoderKL", {
        "block_out_channels": FULL_VAE,
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "layers_per_block": 2,
        "latent_channels": channels,
        "sample_size": 1024,
        **more,
    }


_FLOW_VAE = _kl(16, use_quant_conv=False, use_post_quant_conv=False)
_FLUX2_VAE: tuple[str, Mapping[str, Any]] = ("AutoencoderKLFlux2", {})
_SD3 = {
    "sample_size": 128,
    "num_layers": 24,
    "num_attention_heads": 24,
    "caption_projection_dim": 1536,
    "pos_embed_max_size": 192,
}
_SD3_TEXTS = (CLIP_L, CLIP_G, T5)
_SD3_READ = {"clip": (77, 2048), "t5": (256, 4096), "pooled": (2048,)}


def _of_size(name: str, texts: tuple[Part, ...]) -> Published:
    size = SIZES[name]
    network = {
        "sample_size": size.latent,
        "cross_attention_dim": size.conditions["embeddings"][1],
        **size.unet,
    }
    return Published(
        size.family,
        ("UNet2DConditionModel", network),
        _kl(4),
        texts,
        size.conditions,
        "DDIMScheduler",
    )


def _klein(layers: int, single: int, heads: int, width: int, text: Part) -> Published:
    network = {
        "num_layers": layers,
        "num_single_layers": single,
        "num_attention_heads": heads,
        "joint_attention_dim": width,
        "guidance_embeds": False,
    }
    return Published(
        "flux2",
        ("Flux2Transformer2DModel", network),
        _FLUX2_VAE,
        (text,),
        {"embeddings": (512, width)},
    )


PUBLISHED = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": _of_size("sd15", (CLIP_L,)),
    "stabilityai/stable-diffusion-xl-base-1.0": _of_size("sdxl", (CLIP_L, CLIP_G)),
    "stabilityai/stable-diffusion-3-medium-diffusers": Published(
        "sd3", ("SD3Transformer2DModel", _SD3), _FLOW_VAE, _SD3_TEXTS, _SD3_READ
    ),
    "stabilityai/stable-diffusion-3.5-medium": Published(
        "sd3",
        (
            "SD3Transformer2DModel",
            _SD3
            | {
                "pos_embed_max_size": 384,
                "dual_attention_layers": tuple(range(13)),
                "qk_norm": "rms_norm",
            },
        ),
        _FLOW_VAE,
        _SD3_TEXTS,
        _SD3_READ,
    ),
    "black-forest-labs/FLUX.1-dev": Published(
        "flux",
        ("FluxTransformer2DModel", {"guidance_embeds": True}),
        _FLOW_VAE,
        (CLIP_L, T5),
        {"embeddings": (512, 4096), "pooled": (768,)},
    ),
    "black-forest-labs/FLUX.2-dev": Published(
        "flux2",
        ("Flux2Transformer2DModel", {}),
        _FLUX2_VAE,
        (MISTRAL,),
        {"embeddings": (512, 15360)},
    ),
    "black-forest-labs/FLUX.2-klein-base-4B": _klein(5, 20, 24, 7680, QWEN_4B),
    "black-forest-labs/FLUX.2-klein-base-9B": _klein(8, 24, 32, 12288, QWEN_8B),
    "Qwen/Qwen-Image": Published(
        "qwenimage",
        ("QwenImageTransformer2DModel", {}),
        ("AutoencoderKLQwenImage", {}),
        (QWEN_VL,),
        {"embeddings": (512, 3584), "mask": (512,)},
        masks=("mask",),
    ),
    "Tongyi-MAI/Z-Image": Published(
        "zimage",
        ("ZImageTransformer2DModel", {}),
        _FLOW_VAE,
        (QWEN_4B,),
        {"embeddings": (512, 2560), "mask": (512,)},
        masks=("mask",),
    ),
    "lodestones/Chroma1-HD": Published(
        "chroma",
        ("ChromaTransformer2DModel", {}),
        _FLOW_VAE,
        (T5,),
        {"embeddings": (512, 4096), "mask": (512,)},
        masks=("mask",),
    ),
    "Efficient-Large-Model/Sana_1600M_1024px_diffusers": Published(
        "sana",
        ("SanaTransformer2DModel", {}),
        (
            "AutoencoderDC",
            {
                "encoder_block_types": ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3,
                "decoder_block_types": ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3,
                "encoder_qkv_multiscales": ((), (), (), (5,), (5,), (5,)),
                "decoder_qkv_multiscales": ((), (), (), (5,), (5,), (5,)),
                "encoder_block_out_channels": (128, 256, 512, 512, 1024, 1024),
                "decoder_block_out_channels": (128, 256, 512, 512, 1024, 1024),
                "encoder_layers_per_block": (2, 2, 2, 3, 3, 3),
                "decoder_layers_per_block": (3, 3, 3, 3, 3, 3),
                "downsample_block_type": "conv",
                "upsample_block_type": "interpolate",
                "decoder_act_fns": "silu",
                "decoder_norm_types": "rms_norm",
            },
        ),
        (GEMMA,),
        {"embeddings": (300, 2304), "mask": (300,)},
        masks=("mask",),
    ),
}
SIDES = {"lodestones/Chroma1-HD": 1024, "black-forest-labs/FLUX.1-dev": 1024}
SIDES |= dict.fromkeys((n for n in PUBLISHED if "FLUX.2" in n or "Qwen" in n), 1024)


def write(model: Published, folder: Path) -> None:
    """A model folder without weights."""
    part = "unet" if "UNet" in model.network[0] else "transformer"
    parts = {part: model.network, "vae": model.vae}
    index: dict[str, Any] = {"_class_name": "DiffusionPipeline"}
    for name, (kind, config) in parts.items():
        with torch.device("meta"):
            getattr(diffusers, kind)(**config).save_config(folder / name)
        index[name] = ["diffusers", kind]
    getattr(diffusers, model.scheduler)().save_pretrained(folder / "scheduler")
    index["scheduler"] = ["diffusers", model.scheduler]
    (folder / "model_index.json").write_text(json.dumps(index))


def count(name: str) -> costs.Cost:
    """The cost of a published model, every kind of training step counted."""
    model = PUBLISHED[name]
    shipped = params.load("params.yaml").generator
    told = {"family": model.family, "resolution": SIDES.get(name), "guidance_scale": 3.0}
    with tempfile.TemporaryDirectory() as place:
        write(model, Path(place))
        counter = Counter(place, shipped.model_copy(update=told))
        conditions = {
            key: torch.ones(1, *shape, dtype=torch.bool)
            if key in model.masks
            else counter.empty(1, *shape)
            for key, shape in model.conditions.items()
        }
        found = counter.cost(conditions, model.texts)
        assert found.footprint is not None
        kept = found.footprint.training
        training = {variant(**kind): kept[variant(**kind)] for kind in VARIANTS}
    return replace(found, footprint=replace(found.footprint, training=training))


def main(names: Sequence[str]) -> None:
    """Counts the named models, or all, and writes them into the file."""
    known = json.loads(costs.KNOWN.read_text()) if costs.KNOWN.exists() else {}
    for name in names or PUBLISHED:
        found = asdict(count(name))
        print(name, found["forward"], found["decode"], found["footprint"]["network"], flush=True)
        known[name] = found
        costs.KNOWN.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
