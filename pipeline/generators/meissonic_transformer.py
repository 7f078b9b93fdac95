"""Meissonic's transformer (Bai et al. 2024), which diffusers does not have, from its blocks.

aMUSEd's token embedding, compression and prediction layers around FLUX's two kinds of blocks.
Names, shapes and order of the parts are those of the published checkpoint
(`MeissonFlow/Meissonic`, folder `transformer`), so its weights load strictly.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.embeddings import (
    CombinedTimestepTextProjEmbeddings,
    TimestepEmbedding,
    get_timestep_embedding,
)
from diffusers.models.normalization import RMSNorm
from diffusers.models.transformers.transformer_flux import (
    FluxPosEmbed,
    FluxSingleTransformerBlock,
    FluxTransformerBlock,
)
from diffusers.models.unets.uvit_2d import ConvMlmLayer, UVit2DConvEmbed, UVitBlock
from torch import Tensor, nn

MICRO_WIDTH = 256  # of the embedding of each of the five micro-conditions
MICRO_CONDITIONS = 5
EPSILON = 1e-6


class MeissonicTransformer(ModelMixin, ConfigMixin, PeftAdapterMixin):
    """Tokens with some hidden, and a prompt, to logits over the codebook.

    Args:
        patch_size: must be 1.
        in_channels: of published configurations; not used.
        num_layers: blocks in which image and text have weights of their own.
        num_single_layers: blocks in which they share them.
        attention_head_dim: width of a head.
        num_attention_heads: heads of a block; the network's width is heads times head width.
        joint_attention_dim: width of the prompt's word embeddings.
        pooled_projection_dim: width of its pooled embedding; the width of the network, too.
        guidance_embeds: must be False.
        axes_dims_rope: parts of a head that tell nothing, row and column by rotation.
        vocab_size: tokens that can be shown, the hidden one among them.
        codebook_size: tokens that can be predicted.
        downsample: halve rows and columns before the blocks, as the model for 1024 px does.
        upsample: double them again after the blocks.
        sample_size: tokens a side; as published 64 with `downsample` and 32 without.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["FluxTransformerBlock", "FluxSingleTransformerBlock"]  # noqa: RUF012
    config_name = "config.json"

    @register_to_config
    def __init__(
        self,
        patch_size: int = 1,
        in_channels: int = 64,
        num_layers: int = 14,
        num_single_layers: int = 28,
        attention_head_dim: int = 128,
        num_attention_heads: int = 8,
        joint_attention_dim: int = 1024,
        pooled_projection_dim: int = 1024,
        guidance_embeds: bool = False,
        axes_dims_rope: tuple[int, ...] = (16, 56, 56),
        vocab_size: int = 8256,
        codebook_size: int = 8192,
        downsample: bool = True,
        upsample: bool = True,
        sample_size: int | None = None,
    ) -> None:
        super().__init__()
        if guidance_embeds or patch_size != 1:
            raise ValueError("guidance_embeds and patch_size beside 1 have no published model")
        width, bias = num_attention_heads * attention_head_dim, False
        heads = (width, num_attention_heads, attention_head_dim)
        self.pos_embed = FluxPosEmbed(theta=10000, axes_dim=list(axes_dims_rope))
        self.time_text_embed = CombinedTimestepTextProjEmbeddings(width, pooled_projection_dim)
        self.context_embedder = nn.Linear(joint_attention_dim, width)
        self.transformer_blocks = nn.ModuleList(
            FluxTransformerBlock(*heads) for _ in range(num_layers)
        )
        self.single_transformer_blocks = nn.ModuleList(
            FluxSingleTransformerBlock(*heads) for _ in range(num_single_layers)
        )
        self.embed = UVit2DConvEmbed(width, width, vocab_size, True, EPSILON, bias)
        self.mlm_layer = ConvMlmLayer(width, width, bias, True, EPSILON, codebook_size)
        conditioning_width = MICRO_CONDITIONS * MICRO_WIDTH + pooled_projection_dim
        self.cond_embed = TimestepEmbedding(conditioning_width, width, sample_proj_bias=bias)
        self.encoder_proj_layer_norm = RMSNorm(width, EPSILON, True)
        self.project_to_hidden_norm = RMSNorm(width, EPSILON, True)
        self.project_to_hidden = nn.Linear(width, width, bias=bias)
        self.project_from_hidden_norm = RMSNorm(width, EPSILON, True)
        self.project_from_hidden = nn.Linear(width, width, bias=bias)
        # aMUSEd's blocks without their convolutions: what is left is the change of resolution
        plain = (width, 0, width, 0.0, True, EPSILON, bias, num_attention_heads, 0.0)
        self.down_block = UVitBlock(*plain, downsample, False)
        self.up_block = UVitBlock(*plain, False, upsample)
        self.gradient_checkpointing = False

    @property
    def side(self) -> int:
        """Tokens a side of the images that the model draws."""
        published = 64 if self.config.downsample else 32
        return int(self.config.sample_size or published)

    def forward(
        self,
        tokens: Tensor,
        encoder_hidden_states: Tensor,
        pooled_projections: Tensor,
        timesteps: Tensor,
        micro_conds: Tensor,
    ) -> Tensor:
        """Predict the tokens of every place.

        Args:
            tokens: int64 [B, H, W], hidden ones as the mask token.
            encoder_hidden_states: the prompt's words [B, L, joint_attention_dim].
            pooled_projections: the prompt as one vector [B, pooled_projection_dim].
            timesteps: [B], in thousandths of hidden tokens.
            micro_conds: [B, 5]: width, height, crop, aesthetic score.

        Returns:
            Logits [B, K, H, W] over the K tokens of the codebook.
        """
        words = self.encoder_proj_layer_norm(self.context_embedder(encoder_hidden_states))
        places = self.down_block(self.embed(tokens), None, None, None)
        size, _, rows, columns = places.shape
        image = places.flatten(2).transpose(1, 2)
        image = self.project_to_hidden(self.project_to_hidden_norm(image))
        conditioning = self._conditioning(pooled_projections, timesteps, micro_conds, image.dtype)
        positions = self.pos_embed(_positions(words.shape[1], rows, columns, image.device))
        for block in [*self.transformer_blocks, *self.single_transformer_blocks]:
            words, image = self._through(block, image, words, conditioning, positions)
        image = self.project_from_hidden(self.project_from_hidden_norm(image))
        places = image.transpose(1, 2).reshape(size, -1, rows, columns)
        return self.mlm_layer(self.up_block(places, None, None, None))

    def _conditioning(
        self, pooled: Tensor, timesteps: Tensor, micro_conds: Tensor, dtype: torch.dtype
    ) -> Tensor:
        """What modulates every block, [B, width]."""
        micro = get_timestep_embedding(
            micro_conds.flatten(), MICRO_WIDTH, flip_sin_to_cos=True, downscale_freq_shift=0
        )
        conditioning = torch.cat([pooled, micro.view(len(pooled), -1).to(pooled.dtype)], dim=1)
        # as in FLUX, whose timesteps lie in 0 to 1, times 1000 once more
        return self.time_text_embed(
            timesteps.to(dtype) * 1000, self.cond_embed(conditioning.to(dtype))
        )

    def _through(
        self, block: nn.Module, image: Tensor, words: Tensor, conditioning: Tensor, positions: Any
    ) -> tuple[Tensor, Tensor]:
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            return self._gradient_checkpointing_func(block, image, words, conditioning, positions)
        return block(image, words, conditioning, positions)


def _positions(words: int, rows: int, columns: int, device: torch.device) -> Tensor:
    """[words + rows * columns, 3]: nothing, row and column; words lie at the origin."""
    row, column = torch.meshgrid(
        torch.arange(rows, device=device), torch.arange(columns, device=device), indexing="ij"
    )
    image = torch.stack([torch.zeros_like(row), row, column], dim=-1).flatten(0, 1)
    return torch.cat([image.new_zeros(words, 3), image])
