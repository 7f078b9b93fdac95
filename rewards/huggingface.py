"""CLIP in Hugging Face folders: `config.json`, `model.safetensors`, tokenizer files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import CLIPConfig, CLIPModel

from tgo.rewards import checkpoint, weight_files
from tgo.rewards.cosine import ImageTower
from tgo.rewards.errors import CheckpointError
from tgo.rewards.images import View
from tgo.rewards.source import Source
from tgo.rewards.texts import Encoder, cut, place_of

WEIGHTS, CONFIG = "model.safetensors", "config.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt")
OLD_BUFFERS = (
    "text_model.embeddings.position_ids",
    "vision_model.embeddings.position_ids",
)
"""Position indices that older folders carry as weights; the model computes them."""


def load_network(place: Source, *, named: str, activation: str, path: Path) -> CLIPModel:
    """A CLIP in float32 on the CPU, loaded strictly.

    A configuration with another activation would load without complaint and score wrongly.

    Args:
        place: the folder.
        named: the published model whose score this is.
        activation: the one that model was trained with.
        path: the weights.

    Returns:
        The network.

    Raises:
        CheckpointError: the weights do not fit, or the activation is another.
    """
    with checkpoint.described_by(place.folder / CONFIG):
        network = _build(place, named, activation)
    checkpoint.load_strict(network, weight_files.read_tensors(path), path, surplus=OLD_BUFFERS)
    return network


def _build(place: Source, named: str, activation: str) -> CLIPModel:
    config = CLIPConfig.from_dict(place.json(CONFIG))
    for side, part in (("text", config.text_config), ("vision", config.vision_config)):
        if part.hidden_act != activation:
            raise CheckpointError(
                f"{place.folder / CONFIG}: {side}_config.hidden_act is {part.hidden_act!r}, but "
                f"{named} was trained with {activation!r}: these are other weights (LAION's and "
                "open_clip's CLIPs use 'gelu'), and with the configuration changed they would "
                f"score wrongly; use the checkpoint of {named}"
            )
    return CLIPModel(config)


def image_tower(network: CLIPModel, view: View) -> ImageTower:
    """The image side: vision transformer and projection."""

    def encode(pixels: Tensor) -> Tensor:
        return network.get_image_features(pixel_values=pixels).pooler_output

    return ImageTower(encode, view, network.dtype, network.config.projection_dim)


def towers(network: CLIPModel) -> tuple[nn.Module, nn.Module]:
    """The two transformers, which hold all that costs."""
    return network.vision_model, network.text_model


def text_encoder(
    network: CLIPModel, tokenize: Callable[[Sequence[str]], Tensor], end: int
) -> Encoder:
    """Prompts to L2-normalised embeddings, float32 [N, D].

    `tokenize` gives int64 ids [N, L]; `end` is the id of the end token.
    """

    @torch.inference_mode()
    def encode(prompts: Sequence[str]) -> Tensor:
        ids = tokenize(prompts)
        ids = cut(ids, place_of(ids, end)).to(network.device)
        # Attention is causal and the state at the end token is read: no padding mask is needed.
        return normalize(network.get_text_features(input_ids=ids).pooler_output.float(), dim=-1)

    return encode


def save_network(folder: Path, network: CLIPModel) -> None:
    """Writes `config.json` and `model.safetensors` (float16), as `load_network` reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    network.config.save_pretrained(folder)
    save_file(checkpoint.half(network.state_dict()), folder / WEIGHTS, metadata={"format": "pt"})
