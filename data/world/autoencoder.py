"""The world's autoencoder: 64 x 64 x 3 pixels to 16 x 16 x 4 latents and back."""

from __future__ import annotations

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F

from tgo.data.world.bank import Bank
from tgo.data.world.fit import BUILD, first_rank_first, fit, share

LATENT_SCALE_ROWS = 4096


def train_autoencoder(bank: Bank) -> AutoencoderKL:
    """64 x 64 x 3 pixels to 16 x 16 x 4 latents of unit variance (Rombach et al. 2022)."""
    torch.manual_seed(0)
    model = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 32),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
    )

    def loss(rng: np.random.Generator, noise: torch.Generator) -> Tensor:
        pixels = to_pixels(bank.images[rng.integers(len(bank.images), size=32)])
        posterior = model.encode(pixels).latent_dist
        draw = torch.randn(posterior.mean.shape, generator=noise)
        restored = model.decode(posterior.mean + posterior.std * draw).sample
        error = F.l1_loss(restored, pixels) + 2 * F.mse_loss(restored, pixels)
        return error + 1e-4 * posterior.kl().mean() / posterior.mean[0].numel()

    fit("autoencoder", model, loss, steps=1300, learning_rate=3e-3, average=0.99)
    latents = encode(model, bank.images[:LATENT_SCALE_ROWS])
    model.register_to_config(scaling_factor=float(1 / latents.std()))
    return model


def sharpen(bank: Bank, autoencoder: AutoencoderKL) -> None:
    """Train the decoder alone for longer: latents stay as they are, edges and corners sharpen.

    The latents get a little noise, since what a diffusion model makes is never quite a latent
    of a picture.
    """
    latents = bank_latents(bank, autoencoder)
    decoder = nn.Sequential(autoencoder.post_quant_conv, autoencoder.decoder)
    spread = float(1 / autoencoder.config.scaling_factor)

    def loss(rng: np.random.Generator, noise: torch.Generator) -> Tensor:
        rows = rng.integers(len(latents), size=share(16))
        pixels = to_pixels(bank.images[rows])
        clean = latents[torch.from_numpy(rows)]
        amount = 0.1 * spread * torch.rand(len(clean), 1, 1, 1, generator=noise)
        restored = decoder(clean + amount * torch.randn(clean.shape, generator=noise))
        return edge_error(restored, pixels)

    fit("decoder", decoder, loss, steps=3000, learning_rate=2e-3, average=0.995)


def edge_error(restored: Tensor, pixels: Tensor) -> Tensor:
    """Mean absolute error of pixels and of their differences to the right and below, a scalar."""
    error = F.l1_loss(restored, pixels)
    return (
        error
        + F.l1_loss(restored.diff(dim=2), pixels.diff(dim=2))
        + F.l1_loss(restored.diff(dim=3), pixels.diff(dim=3))
    )


def bank_latents(bank: Bank, autoencoder: AutoencoderKL, name: str = "latents") -> Tensor:
    """Unscaled latents of the whole bank, float32 [N, 4, 16, 16], computed once."""
    path = BUILD / f"{name}.npy"
    with first_rank_first():
        if not path.exists():
            np.save(path, encode(autoencoder, bank.images).numpy())
        return torch.from_numpy(np.load(path))


def to_pixels(images: np.ndarray) -> Tensor:
    """uint8 [B, H, W, 3] to float32 [B, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.no_grad()
def encode(autoencoder: AutoencoderKL, images: np.ndarray) -> Tensor:
    """Posterior means of images, unscaled, float32 [N, 4, 16, 16]."""
    parts = [
        autoencoder.encode(to_pixels(images[start : start + 256])).latent_dist.mean
        for start in range(0, len(images), 256)
    ]
    return torch.cat(parts)
