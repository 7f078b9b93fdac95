"""BLIP as ImageReward uses it: a ViT, and a BERT whose layers also attend to the image.

Plain torch with `scaled_dot_product_attention`. Module names follow BLIP's own, so that a
published state dict loads key by key: `visual_encoder` is timm's ViT of 2022 (fused qkv,
pre-norm, LayerNorm eps 1e-6), `text_encoder` is `transformers`' BERT 4.15 with
`crossattention` in every layer and without a pooler (Li et al. 2022, BLIP, section 3.1:
the image-grounded text encoder).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from tgo.rewards.errors import CheckpointError


@dataclass(frozen=True)
class VisionConfig:
    """Sizes of the image encoder; the defaults are those of the published ImageReward."""

    image_size: int = 224
    patch_size: int = 16
    width: int = 1024
    depth: int = 24
    heads: int = 16

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size or self.width % self.heads:
            raise CheckpointError(
                f"vision config: patch_size {self.patch_size} must divide image_size "
                f"{self.image_size} and heads {self.heads} must divide width {self.width}"
            )


@dataclass(frozen=True)
class TextConfig:
    """Sizes of the text encoder, named as in `med_config.json`; defaults as published."""

    vocab_size: int = 30524
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512
    layer_norm_eps: float = 1e-12
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    pad_token_id: int = 0

    @classmethod
    def from_med_config(cls, config: Mapping[str, Any]) -> TextConfig:
        """Reads the published format; refuses variants that would score wrongly in silence."""
        fixed = {
            "hidden_act": "gelu",
            "position_embedding_type": "absolute",
            "add_cross_attention": True,
        }
        for key, only in fixed.items():
            if config.get(key, only) != only:
                raise CheckpointError(
                    f"med_config.json: {key} is {config[key]!r}, ImageReward needs {only!r}"
                )
        # `encoder_width` is not read: the official package overwrites it with the ViT's width.
        return cls(**{k: config[k] for k in cls.__dataclass_fields__ if k in config})


def attend(
    q: Tensor, k: Tensor, v: Tensor, heads: int, *, mask: Tensor | None, dropout: float
) -> Tensor:
    """Multi-head attention of [B, Q, D] over [B, K, D]; `mask` [B, 1, 1, K] is True to attend."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    mixed = scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
    return mixed.transpose(1, 2).flatten(2)


class PatchEmbedding(nn.Module):
    """[B, 3, S, S] to [B, (S/P)^2, D], row by row."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        size = config.patch_size
        self.proj = nn.Conv2d(3, config.width, kernel_size=size, stride=size)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.proj(pixels).flatten(2).transpose(1, 2)


class VisionAttention(nn.Module):
    """Self-attention with one fused projection for queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return self.proj(attend(q, k, v, self.heads, mask=None, dropout=0.0))


class VisionMlp(nn.Module):
    """Two layers with exact GELU between."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(gelu(self.fc1(x)))


class VisionBlock(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=1e-6)
        self.attn = VisionAttention(config.width, config.heads)
        self.norm2 = nn.LayerNorm(config.width, eps=1e-6)
        self.mlp = VisionMlp(config.width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionEncoder(nn.Module):
    """BLIP's ViT: normalised pixels [B, 3, S, S] to tokens [B, 1 + (S/P)^2, D]."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        patches = (config.image_size // config.patch_size) ** 2
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + patches, config.width))
        self.patch_embed = PatchEmbedding(config)
        self.blocks = nn.ModuleList(VisionBlock(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=1e-6)
        for parameter in (self.cls_token, self.pos_embed):
            nn.init.trunc_normal_(parameter, std=0.02)
        self.apply(_init_weights)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embed(pixels)
        x = torch.cat([self.cls_token.expand(len(pixels), -1, -1), patches], dim=1)
        x = x + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class TextEmbeddings(nn.Module):
    """Word plus position embeddings; BLIP dropped BERT's token types."""

    position_ids: Tensor

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        width, positions = config.hidden_size, config.max_position_embeddings
        self.word_embeddings = nn.Embedding(
            config.vocab_size, width, padding_idx=config.pad_token_id
        )
        self.position_embeddings = nn.Embedding(positions, width)
        self.LayerNorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.register_buffer("position_ids", torch.arange(positions)[None])  # published as a key

    def forward(self, ids: Tensor) -> Tensor:
        positions = self.position_embeddings(self.position_ids[:, : ids.shape[1]])
        return self.dropout(self.LayerNorm(self.word_embeddings(ids) + positions))


class TextSelfAttention(nn.Module):
    """Queries from the text; keys and values from a context of `context_width`."""

    def __init__(self, config: TextConfig, context_width: int) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.dropout = config.attention_probs_dropout_prob
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(context_width, width)
        self.value = nn.Linear(context_width, width)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = self.query(x), self.key(context), self.value(context)
        dropout = self.dropout if self.training else 0.0
        return attend(q, k, v, self.heads, mask=mask, dropout=dropout)


class TextOutput(nn.Module):
    """Projection, dropout, residual and post-norm, shared by attention and MLP in BERT."""

    def __init__(self, config: TextConfig, input_width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(input_width, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(self.dropout(self.dense(x)) + residual)


class TextAttention(nn.Module):
    """One attention sub-layer; it attends to the text itself where no context is given."""

    def __init__(self, config: TextConfig, context_width: int) -> None:
        super().__init__()
        self.self = TextSelfAttention(config, context_width)
        self.output = TextOutput(config, config.hidden_size)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
        return self.output(self.self(x, context, mask), x)


class TextIntermediate(nn.Module):
    """First layer of BERT's MLP, exact GELU."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)

    def forward(self, x: Tensor) -> Tensor:
        return gelu(self.dense(x))


class TextLayer(nn.Module):
    """Self-attention over the words, cross-attention to the image, MLP."""

    def __init__(self, config: TextConfig, vision_width: int) -> None:
        super().__init__()
        self.attention = TextAttention(config, config.hidden_size)
        self.crossattention = TextAttention(config, vision_width)
        self.intermediate = TextIntermediate(config)
        self.output = TextOutput(config, config.intermediate_size)

    def forward(self, x: Tensor, mask: Tensor, image: Tensor) -> Tensor:
        x = self.attention(x, x, mask)
        x = self.crossattention(x, image, None)
        return self.output(self.intermediate(x), x)


class TextLayers(nn.Module):
    """BERT's `encoder`; it only holds the list, for the sake of the published key names."""

    def __init__(self, config: TextConfig, vision_width: int) -> None:
        super().__init__()
        depth = config.num_hidden_layers
        self.layer = nn.ModuleList(TextLayer(config, vision_width) for _ in range(depth))


class TextEncoder(nn.Module):
    """Image-grounded text encoder: ids, mask [B, L] and image tokens [B, N, V] to [B, L, D]."""

    def __init__(self, config: TextConfig, vision_width: int) -> None:
        super().__init__()
        self.embeddings = TextEmbeddings(config)
        self.encoder = TextLayers(config, vision_width)
        self.apply(_init_weights)

    def forward(self, ids: Tensor, mask: Tensor, image: Tensor) -> Tensor:
        x = self.embeddings(ids)
        attended = mask.bool()[:, None, None, :]
        for layer in self.encoder.layer:
            x = layer(x, attended, image)
        return x


def _init_weights(module: nn.Module) -> None:
    """BERT's and timm's common initialisation: normal with std 0.02, zero biases."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
