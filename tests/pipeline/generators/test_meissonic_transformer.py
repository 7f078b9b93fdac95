"""The published checkpoint's names and shapes, spelt out apart from the code that makes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.masked_models import write_random_meissonic
from tgo.pipeline.errors import InputError
from tgo.pipeline.generators.meissonic_transformer import MeissonicTransformer
from tgo.pipeline.generators.model_folder import ModelFolder

Shapes = dict[str, tuple[int, ...]]

TINY: dict[str, Any] = {
    "num_layers": 2,
    "num_single_layers": 3,
    "attention_head_dim": 8,
    "num_attention_heads": 3,
    "joint_attention_dim": 20,
    "pooled_projection_dim": 24,
    "axes_dims_rope": (4, 2, 2),
    "vocab_size": 40,
    "codebook_size": 32,
}


def linear(name: str, given: int, wanted: int, *, bias: bool = True) -> Shapes:
    found: Shapes = {f"{name}.weight": (wanted, given)}
    return found | ({f"{name}.bias": (wanted,)} if bias else {})


def published(
    *,
    num_layers: int = 14,
    num_single_layers: int = 28,
    attention_head_dim: int = 128,
    num_attention_heads: int = 8,
    joint_attention_dim: int = 1024,
    pooled_projection_dim: int = 1024,
    vocab_size: int = 8256,
    codebook_size: int = 8192,
    resample: bool = True,
    **_: object,
) -> Shapes:
    """Name and shape of every weight of the published `transformer`, from its config.json."""
    head, width = attention_head_dim, attention_head_dim * num_attention_heads
    keys: Shapes = {}
    keys |= linear("time_text_embed.timestep_embedder.linear_1", 256, width)
    keys |= linear("time_text_embed.timestep_embedder.linear_2", width, width)
    keys |= linear("time_text_embed.text_embedder.linear_1", pooled_projection_dim, width)
    keys |= linear("time_text_embed.text_embedder.linear_2", width, width)
    keys |= linear("context_embedder", joint_attention_dim, width)
    keys |= linear("cond_embed.linear_1", 1280 + pooled_projection_dim, width, bias=False)
    keys |= linear("cond_embed.linear_2", width, width, bias=False)
    for index in range(num_layers):
        block = f"transformer_blocks.{index}"
        for norm in ("norm1", "norm1_context"):
            keys |= linear(f"{block}.{norm}.linear", width, 6 * width)
        for part in ("to_q", "to_k", "to_v", "to_out.0"):
            keys |= linear(f"{block}.attn.{part}", width, width)
        for part in ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"):
            keys |= linear(f"{block}.attn.{part}", width, width)
        for norm in ("norm_q", "norm_k", "norm_added_q", "norm_added_k"):
            keys[f"{block}.attn.{norm}.weight"] = (head,)
        for part in ("ff", "ff_context"):
            keys |= linear(f"{block}.{part}.net.0.proj", width, 4 * width)
            keys |= linear(f"{block}.{part}.net.2", 4 * width, width)
    for index in range(num_single_layers):
        block = f"single_transformer_blocks.{index}"
        keys |= linear(f"{block}.norm.linear", width, 3 * width)
        keys |= linear(f"{block}.proj_mlp", width, 4 * width)
        keys |= linear(f"{block}.proj_out", 5 * width, width)
        for part in ("to_q", "to_k", "to_v"):
            keys |= linear(f"{block}.attn.{part}", width, width)
        for norm in ("norm_q", "norm_k"):
            keys[f"{block}.attn.{norm}.weight"] = (head,)
    keys["embed.embeddings.weight"] = (vocab_size, width)
    keys["embed.layer_norm.weight"] = (width,)
    keys["embed.conv.weight"] = (width, width, 1, 1)
    keys["mlm_layer.conv1.weight"] = (width, width, 1, 1)
    keys["mlm_layer.layer_norm.weight"] = (width,)
    keys["mlm_layer.conv2.weight"] = (codebook_size, width, 1, 1)
    keys["encoder_proj_layer_norm.weight"] = (width,)
    for place in ("project_to_hidden", "project_from_hidden"):
        keys[f"{place}_norm.weight"] = (width,)
        keys |= linear(place, width, width, bias=False)
    if resample:
        for part in ("down_block.downsample", "up_block.upsample"):
            keys[f"{part}.norm.weight"] = (width,)
            keys[f"{part}.conv.weight"] = (width, width, 2, 2)
    return keys


def shapes(network: torch.nn.Module) -> Shapes:
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


def test_the_published_configuration_has_the_published_weights() -> None:
    with torch.device("meta"):
        network = MeissonicTransformer()
    assert shapes(network) == published()
    assert network.side == 64
    assert 0.95e9 < sum(value.numel() for value in network.parameters()) < 1.1e9  # "1B"


@pytest.mark.parametrize("resample", [True, False])
def test_weights_of_the_published_names_load_strictly(tmp_path: Path, resample: bool) -> None:
    folder = write_random_meissonic(tmp_path / "m", **TINY, downsample=resample, upsample=resample)
    config = folder / "transformer/config.json"
    config.write_text(config.read_text().replace("MeissonicTransformer", "Transformer2DModel"))
    names = published(**TINY, resample=resample)
    weights = {name: torch.randn(shape) for name, shape in names.items()}
    path = folder / "transformer/diffusion_pytorch_model.safetensors"
    save_file(weights, path)
    found = ModelFolder(str(folder)).load("transformer", torch.float32, kind=MeissonicTransformer)
    for name, value in found.state_dict().items():
        assert torch.equal(value, weights[name])
    tokens = torch.randint(40, (2, 8, 8))
    logits = found(
        tokens,
        encoder_hidden_states=torch.randn(2, 5, 20),
        pooled_projections=torch.randn(2, 24),
        timesteps=torch.tensor([500, 1000]),
        micro_conds=torch.zeros(2, 5),
    )
    assert logits.shape == (2, 32, 8, 8)
    for changed in (
        {name: value for name, value in weights.items() if name != "project_to_hidden.weight"},
        weights | {"project_to_hidden.bias": torch.zeros(24)},
    ):
        save_file(changed, path)
        with pytest.raises(InputError, match="project_to_hidden"):
            ModelFolder(str(folder)).load("transformer", torch.float32, kind=MeissonicTransformer)


def test_where_a_token_lies_matters(tmp_path: Path) -> None:
    """Positions come by rotation alone, so equal tokens at other places must still differ."""
    torch.manual_seed(0)
    network = MeissonicTransformer(**TINY, sample_size=8).eval()
    given = {
        "encoder_hidden_states": torch.randn(1, 5, 20),
        "pooled_projections": torch.randn(1, 24),
        "timesteps": torch.tensor([500]),
        "micro_conds": torch.zeros(1, 5),
    }
    tokens = torch.zeros(1, 8, 8, dtype=torch.int64)
    tokens[0, 0, 0] = 1
    with torch.no_grad():
        logits = network(tokens, **given)
    assert not torch.allclose(logits[0, :, 4, 4], logits[0, :, 6, 6], atol=1e-6)


def test_gradient_checkpointing_changes_nothing() -> None:
    torch.manual_seed(0)
    network = MeissonicTransformer(**TINY, sample_size=8)
    given = {
        "encoder_hidden_states": torch.randn(2, 5, 20),
        "pooled_projections": torch.randn(2, 24),
        "timesteps": torch.tensor([500, 10]),
        "micro_conds": torch.zeros(2, 5),
    }
    tokens = torch.randint(40, (2, 8, 8))
    gradients = []
    for checkpointed in (False, True):
        if checkpointed:
            network.enable_gradient_checkpointing()
        network.zero_grad()
        network(tokens, **given).square().mean().backward()
        gradients.append([p.grad.clone() for p in network.parameters() if p.grad is not None])
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two)
