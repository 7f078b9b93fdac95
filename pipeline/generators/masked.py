"""Masked image models: a transformer that tells hidden tokens of an image from those shown.

One convention in training and sampling: a timestep is the share of tokens hidden in the
network's input, in thousandths. (Meissonic's public training script feeds it so too, its sampler
the number of the step.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import AmusedScheduler
from torch import Tensor, nn

from tgo.pipeline.errors import InputError
from tgo.pipeline.generators.base import (
    Conditions,
    Corruption,
    LogLikelihood,
    require_image_size,
    with_unconditional,
)
from tgo.pipeline.generators.folder_family import FolderFamily, LoadOptions
from tgo.pipeline.generators.masking import (
    TEMPERATURES,
    draw_masks,
    draw_tokens,
    hidden_counts,
    least_confident,
)
from tgo.pipeline.generators.model_folder import ModelFolder
from tgo.pipeline.generators.sizes import Size, sizes_of

AESTHETIC_SCORE = 6.0  # what the published pipelines tell the network of every image


class Masked(FolderFamily):
    """What masked families share; see `Family` for the methods. Latents are tokens [H, W].

    A family adds how its network is loaded, called, and how many tokens a side it was made for.
    """

    parts = ("scheduler", "text_encoder", "tokenizer", "transformer", "vqvae")
    latent_dtype = torch.int32

    def __init__(self, folder: ModelFolder, options: LoadOptions) -> None:
        super().__init__(folder, options)
        for setting in ("quantization", "offload", "vae_tiling"):
            if getattr(options, setting):
                raise InputError(
                    f"generator.{setting}: {self.name} models are small and do without; set it to "
                    f"{'null' if setting == 'quantization' else 'false'}"
                )
        self._vqvae = self._load_vqvae()
        self.network = self._load_network().to(self._device)
        scale = 2 ** (len(self._vqvae.config.block_out_channels) - 1)  # pixels a side of a token
        side = scale * self._side()
        sizes = sizes_of(options.resolution) or (Size(side, side),)
        self.latent_shapes = {size: self._shape_for(size, scale) for size in sizes}
        self._micro_conditions = {
            shape: torch.tensor(
                [[size.width, size.height, 0, 0, AESTHETIC_SCORE]], device=self._device
            )
            for size, shape in self.latent_shapes.items()
        }
        self._mask = self._mask_token()

    def _load_network(self) -> nn.Module:
        raise NotImplementedError

    def _side(self) -> int:
        """Tokens a side of the images that the network was made for."""
        raise NotImplementedError

    def _shape_for(self, size: Size, scale: int) -> tuple[int, ...]:
        config: Any = self.network.config
        unit = scale * (2 if config.downsample else 1)
        for pixels in size:
            if pixels % unit:
                raise InputError(
                    f"generator.resolution: {pixels} is no multiple of {unit}, as this model needs"
                )
        return (size.height // scale, size.width // scale)

    def _told_of(self, tokens: Tensor, dtype: torch.dtype) -> Tensor:
        """What the network is told of images of these tokens [B, H, W]: size, crop, a score."""
        return self._micro_conditions[tokens.shape[1:]].to(dtype).expand(len(tokens), -1)

    def _logits(
        self, network: nn.Module, tokens: Tensor, conditions: Conditions, timesteps: Tensor
    ) -> Tensor:
        """Float32 [B, K, H, W] of what each token is, from tokens int64 [B, H, W]."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        sampler = {"sampler": "confidence", "temperatures": list(TEMPERATURES)}
        return super().describe() | sampler

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditions:
        """`embeddings` [B, L, D], the text encoder's last layer but one, and `pooled` [B, P]."""
        tokens = self.text_encoders.tokens("tokenizer", prompts).input_ids
        read = self.text_encoders.part("text_encoder")(tokens, output_hidden_states=True)
        return {"embeddings": read.hidden_states[-2].float(), "pooled": read.text_embeds.float()}

    def initial_noise(self, seeds: Sequence[int], size: Size | None = None) -> Tensor:
        """All the randomness of sampling: uniform numbers [B, steps, 2, H, W] on the CPU.

        Two for every step and token, the first decides which token is drawn, the second whether
        it stays; each sample has a generator of its own.
        """
        tokens = self.latent_shape if size is None else self.latent_shapes[size]
        shape = (self._steps, 2, *tokens)
        return torch.stack(
            [torch.rand(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        )

    @torch.inference_mode()
    def sample(self, conditions: Conditions, unconditional: Conditions, noise: Tensor) -> Tensor:
        """Tokens float32 [B, H, W]; NaN where the network gave no finite logits."""
        guided = self._guidance_scale > 1
        if guided:
            conditions = with_unconditional(conditions, unconditional)
        draws = noise.to(self._device)
        hidden = torch.ones(len(noise), *noise.shape[3:], dtype=torch.bool, device=self._device)
        tokens = torch.full_like(hidden, 0, dtype=torch.int64)
        broken = torch.zeros(len(noise), dtype=torch.bool, device=self._device)
        counts = hidden_counts(self._steps, hidden[0].numel())
        temperatures = torch.linspace(*TEMPERATURES, self._steps).tolist()
        for step, temperature in enumerate(temperatures):
            shown = tokens.masked_fill(hidden, self._mask).repeat(2 if guided else 1, 1, 1)
            timesteps = _timesteps(counts[step] / hidden[0].numel(), len(shown)).to(self._device)
            logits = self._logits(self.network, shown, conditions, timesteps)
            if guided:
                baseline, conditional = logits.chunk(2)
                logits = baseline + self._guidance_scale * (conditional - baseline)
            broken |= ~logits.isfinite().flatten(1).all(dim=1)
            drawn, confidence = draw_tokens(logits, draws[:, step, 0])
            tokens = torch.where(hidden, drawn, tokens)
            again = draws[:, step, 1], temperature, counts[step + 1]
            hidden = least_confident(confidence, hidden, *again)
        return tokens.float().masked_fill(broken[:, None, None], torch.nan)

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        config = self._vqvae.config
        shape = (*latents.shape, config.vq_embed_dim or config.latent_channels)
        tokens = latents.to(self._device, torch.int64)
        images = self._vqvae.decode(tokens, force_not_quantize=True, shape=shape).sample
        # in the order of diffusers' image processor, so that roundings agree to the bit
        return (images.clamp(0, 1).float() * 255).round().to(torch.uint8).cpu()

    @torch.inference_mode()
    def encode(self, images: Tensor) -> Tensor:
        """Tokens int32 [B, H, W], each the nearest of the codebook to its latent."""
        require_image_size(images, self.latent_shapes)
        pixels = images.to(self._device, self._vqvae.dtype) / 255
        latents = self._vqvae.encode(pixels).latents
        _, _, (_, _, tokens) = self._vqvae.quantize(latents)
        return tokens.view(len(latents), *latents.shape[2:]).to("cpu", self.latent_dtype)

    def corrupt(self, latents: Tensor, generator: torch.Generator) -> Corruption:
        """Masks bool [B, H, W] as noise, and how much they hide as timesteps."""
        masks = draw_masks(len(latents), tuple(latents.shape[1:]), generator)
        return Corruption(_timesteps(masks.flatten(1).float().mean(dim=1), len(latents)), masks)

    def log_likelihood(
        self,
        network: nn.Module,
        latents: Tensor,
        conditions: Conditions,
        corruption: Corruption,
        *,
        temperature: float,
    ) -> LogLikelihood:
        """``(1/T) mean_hidden log p(token | shown tokens, prompt)``, float32 [B].

        The mean is a sample's own, over its hidden tokens (TGO, arXiv:2605.04653). It is a true
        log-probability in nats a token: T = 1 is the method as published.
        """
        tokens = latents.to(self._device, torch.int64)
        timesteps, hidden = (part.to(self._device) for part in corruption)
        shown = tokens.masked_fill(hidden, self._mask)
        logits = self._logits(network, shown, conditions, timesteps)
        log_probabilities = logits.log_softmax(dim=1).gather(1, tokens[:, None])[:, 0]
        total = log_probabilities.masked_fill(~hidden, 0).sum(dim=(1, 2))
        return LogLikelihood(total / hidden.sum(dim=(1, 2)) / temperature)

    def _load_vqvae(self) -> Any:
        vqvae = self._folder.load("vqvae", self._dtype)
        if not vqvae.config.lookup_from_codebook:
            raise InputError(
                f"{self._folder.path}/vqvae: does not decode tokens (lookup_from_codebook is not "
                "set in its config.json); use the VQModel that the model was trained with"
            )
        if self._dtype == torch.float16 and vqvae.config.force_upcast:  # it overflows there
            vqvae = self._folder.load("vqvae", torch.float32)
        return vqvae.to(self._device)

    def _mask_token(self) -> int:
        """The token that says "hidden", of a schedule that hides by the cosine."""
        config = self._folder.load("scheduler", kind=AmusedScheduler).config
        if config.masking_schedule != "cosine":
            raise InputError(
                f"{self._folder.path}/scheduler: masking_schedule {config.masking_schedule!r} is "
                "not known; use cosine"
            )
        return int(config.mask_token_id)


def _timesteps(share: Tensor | float, size: int) -> Tensor:
    """Int64 [size] on the CPU, from the share of tokens hidden; see the module."""
    shares = torch.as_tensor(share).expand(size)
    return (1000 * shares).round().to(torch.int64)
