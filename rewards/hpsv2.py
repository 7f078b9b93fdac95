"""HPSv2 (Wu et al. 2023): cosine of a fine-tuned open_clip ViT-H-14, without logit scale.

Usually .15 to .35. The score depends on how images are resized: the longest side, on floats,
with an antialias setting that torchvision changed; it is stated in `preprocessing`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import open_clip
import torch
from open_clip.model import CLIP
from torch import Tensor
from torch.nn.functional import normalize

from tgo.rewards import checkpoint, ftfy_tokens, weight_files
from tgo.rewards.checksum import file_sha256
from tgo.rewards.cosine import CosineModel, ImageTower
from tgo.rewards.errors import CheckpointError
from tgo.rewards.images import View
from tgo.rewards.source import Files, Source
from tgo.rewards.texts import Encoder, cut, place_of

VERSIONS = {"HPS_v2.1_compressed.pt": "2.1", "HPS_v2_compressed.pt": "2.0"}
WEIGHTS = "HPS_v2.1_compressed.pt"
ARCHITECTURE = "ViT-H-14"
CONFIG = "open_clip_config.json"
FILES = Files(weights=tuple(VERSIONS), optional=(CONFIG,), published="xswu/HPSv2")


@dataclass(frozen=True, kw_only=True, eq=False)
class HPSv2(CosineModel):
    """Cosine similarity of an image and its prompt."""

    name: ClassVar[str] = "hpsv2"
    model: ClassVar[str] = "xswu/HPSv2"
    unit: ClassVar[str] = "cosine"
    usual_range: ClassVar[tuple[float, float]] = (0.15, 0.35)


def build(model_cfg: Mapping[str, Any]) -> CLIP:
    """A randomly initialised open_clip CLIP from its `model_cfg`; raises CheckpointError."""
    if model_cfg.get("quick_gelu"):
        raise CheckpointError(
            f"{CONFIG}: model_cfg.quick_gelu is true, HPSv2 was trained with GELU; remove it"
        )
    return CLIP(**model_cfg, output_dict=True)


def load(
    source: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    antialias: bool = True,
) -> HPSv2:
    """The model in a published `.pt` file, or in a folder or hub repository that holds one.

    An `open_clip_config.json` beside it gives the architecture; without it the weights must be
    published ones, by checksum, under their own name. `antialias` is on in today's torchvision
    and was off in the one HPSv2 was published with. Raises CheckpointError.
    """
    place = Source(source, FILES)
    path = place.weights()
    digest = file_sha256(path)
    model_cfg = architecture(place, path, digest)
    with checkpoint.described_by(place.folder / CONFIG):
        network = build(model_cfg)
    state = weight_files.read_tensors(path).get("state_dict")
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: has no weights under state_dict; use the published format")
    checkpoint.load_strict(network, state, path)
    network = network.to(device, dtype).eval()
    size = network.visual.image_size[0]
    view = View(size, fit="pad", antialias=antialias, convert="first")
    return HPSv2(
        version=checkpoint.version_of(digest, VERSIONS),
        checkpoint_sha256=digest,
        dtype=str(dtype).removeprefix("torch."),
        preprocessing=str(view),
        files=checkpoint.checksums(place.folder, CONFIG),
        tower=ImageTower(network.encode_image, view, dtype, model_cfg["embed_dim"]),
        encode_prompts=_text_encoder(network),
        networks=(network.visual, network.transformer),
    )


def architecture(place: Source, path: Path, digest: str) -> dict[str, Any]:
    """open_clip's `model_cfg` of the weights at `path`, which have the sha256 `digest`."""
    if place.has(CONFIG):
        with checkpoint.described_by(place.folder / CONFIG):
            return place.json(CONFIG)["model_cfg"]
    name = path.name if path.name in VERSIONS else WEIGHTS
    remedy = f"put an {CONFIG} beside a model of other weights"
    checkpoint.require_published(path, digest, name, remedy)
    config = open_clip.get_model_config(ARCHITECTURE)
    if config is None:
        raise CheckpointError(f"open_clip knows no {ARCHITECTURE}; install open_clip_torch >= 3.3")
    return config


def _text_encoder(network: CLIP) -> Encoder:
    tokenize = ftfy_tokens.tokenizer(network.context_length)

    @torch.inference_mode()
    def encode(prompts: Sequence[str]) -> Tensor:
        ids = tokenize(prompts)
        ids = cut(ids, place_of(ids, ftfy_tokens.END)).to(network.logit_scale.device)
        return normalize(_read(network, ids).float(), dim=-1)

    return encode


def _read(network: CLIP, ids: Tensor) -> Tensor:
    """open_clip's `encode_text`, which wants all 77 places, for the first of them."""
    places = ids.shape[1]
    x = network.token_embedding(ids) + network.positional_embedding[:places]
    x = network.transformer(x, attn_mask=network.attn_mask[:places, :places])
    ends = ids.argmax(dim=-1)  # the end token has the highest number
    return (
        network.ln_final(x)[torch.arange(len(ids), device=ids.device), ends]
        @ network.text_projection
    )


def save(folder: str | Path, network: CLIP, model_cfg: Mapping[str, Any]) -> None:
    """Writes `network`, built from `model_cfg`, in the published format, as `load` reads it."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": checkpoint.half(network.state_dict())}, folder / WEIGHTS)
    config = json.dumps({"model_cfg": dict(model_cfg)}, indent=2)
    (folder / CONFIG).write_text(config + "\n", encoding="utf-8")
