"""The world's image tokens: 64 x 64 x 3 pixels to 16 x 16 tokens of a codebook, and back.

The encoder is the diffusion model's, its latents rounded to the nearest of 64 centres that k-means
found among them (97 % of their variance). So no codebook can collapse, tokens are there before
anything of the masked model is trained, and only the decoder has to learn what the rounding took
away. With 1,024 centres flat backgrounds took one of several alike, which no model can tell: 4 in
10 of a clean picture's tokens, even with nearly all others shown.
"""

from __future__ import annotations

import os

import numpy as np
import torch
from diffusers import AutoencoderKL, VQModel
from scipy.cluster.vq import kmeans2
from torch import Tensor, distributed, nn

from tgo.data.world.autoencoder import edge_error
from tgo.data.world.bank import Bank
from tgo.data.world.fit import BUILD, SEED, first_rank_first, fit, ranks, share

CODES = 64
CENTRE_ROWS = 2048  # pictures of each bank that the centres are found on
CENTRE_SAMPLES = 40_000
STEPS = 3000


def new_quantizer(autoencoder: AutoencoderKL) -> VQModel:
    """A VQModel that draws as `autoencoder` does, its codebook still to be filled.

    Its pixels lie in 0 to 1, as aMUSEd's do, the autoencoder's in -1 to 1: its first and last
    convolutions take the change of scale. The posterior's mean, two convolutions there, is one
    here.
    """
    model = VQModel(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=autoencoder.config.block_out_channels,
        layers_per_block=autoencoder.config.layers_per_block,
        latent_channels=autoencoder.config.latent_channels,
        norm_num_groups=autoencoder.config.norm_num_groups,
        sample_size=64,
        num_vq_embeddings=CODES,
        scaling_factor=1.0,
        mid_block_add_attention=False,
        lookup_from_codebook=True,
    )
    channels = autoencoder.config.latent_channels
    encoder, decoder = autoencoder.encoder.state_dict(), autoencoder.decoder.state_dict()
    encoder["conv_in.bias"] = encoder["conv_in.bias"] - encoder["conv_in.weight"].sum((1, 2, 3))
    encoder["conv_in.weight"] = 2 * encoder["conv_in.weight"]
    mean = autoencoder.quant_conv.weight[:channels, :, 0, 0]
    encoder["conv_out.weight"] = torch.einsum("oi,ichw->ochw", mean, encoder["conv_out.weight"])
    encoder["conv_out.bias"] = (
        mean @ encoder["conv_out.bias"] + autoencoder.quant_conv.bias[:channels]
    )
    decoder["conv_out.weight"] = decoder["conv_out.weight"] / 2
    decoder["conv_out.bias"] = (decoder["conv_out.bias"] + 1) / 2
    with torch.no_grad():
        model.encoder.load_state_dict(encoder)
        model.decoder.load_state_dict(decoder)
        model.post_quant_conv.load_state_dict(autoencoder.post_quant_conv.state_dict())
        model.quant_conv.weight.copy_(torch.eye(channels)[:, :, None, None])
        model.quant_conv.bias.zero_()
    return model.requires_grad_(False).eval()


def find_centres(model: VQModel, banks: tuple[Bank, ...]) -> None:
    """Fill the codebook with k-means centres of the latents of pictures of every bank.

    Most places show nothing but background. So a place is drawn as often as its latent is far
    from its picture's median, and edges and colours get the centres they need.
    """
    path = BUILD / "centres.npy"
    with first_rank_first():
        if not path.exists():
            latents = torch.cat([latents_of(model, bank.images[:CENTRE_ROWS]) for bank in banks])
            places = latents.flatten(2).transpose(1, 2)
            apart = (places - places.median(dim=1, keepdim=True).values).norm(dim=2).flatten()
            vectors, odds = places.flatten(0, 1).numpy(), apart.double().numpy()
            rng = np.random.default_rng(SEED)
            rows = rng.choice(len(vectors), CENTRE_SAMPLES, replace=False, p=odds / odds.sum())
            centres, _ = kmeans2(vectors[rows], CODES, iter=30, minit="++", seed=rng)
            np.save(path, centres)
        model.quantize.embedding.weight.data.copy_(torch.from_numpy(np.load(path)))


def bank_codes(model: VQModel, bank: Bank, name: str) -> Tensor:
    """Tokens of the whole bank, int64 [N, 16, 16], computed once, by every rank its share."""
    path = BUILD / f"{name}.npy"
    if path.exists():
        return torch.from_numpy(np.load(path)).long()
    rank, count = ranks()
    own = codes_of(model, bank.images[rank::count]).int()
    parts = [torch.empty_like(own) for _ in range(count)] if count > 1 else [own]
    if count > 1:
        distributed.all_gather(parts, own)
    codes = torch.stack(parts, dim=1).flatten(0, 1)
    if rank == 0:
        temporary = path.with_suffix(".tmp.npy")
        np.save(temporary, codes.numpy().astype(np.int16))
        os.replace(temporary, path)
    return codes.long()


def train_decoder(model: VQModel, bank: Bank, codes: Tensor) -> None:
    """Teach the decoder to draw from tokens; they stay as they are."""
    decoder = nn.Sequential(model.post_quant_conv, model.decoder).requires_grad_(True)
    centres = model.quantize.embedding.weight.detach()

    def loss(rng: np.random.Generator, noise: torch.Generator) -> Tensor:
        rows = rng.integers(len(codes), size=share(16))
        latents = centres[codes[torch.from_numpy(rows)]].permute(0, 3, 1, 2)
        return edge_error(decoder(latents.contiguous()), to_unit(bank.images[rows]))

    fit("vq_decoder", decoder, loss, steps=STEPS, learning_rate=2e-3, average=0.995)
    decoder.requires_grad_(False)


def to_unit(images: np.ndarray) -> Tensor:
    """uint8 [B, H, W, 3] to float32 [B, 3, H, W] in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255


@torch.no_grad()
def latents_of(model: VQModel, images: np.ndarray) -> Tensor:
    """Latents before rounding, float32 [N, 4, 16, 16]."""
    starts = range(0, len(images), 256)
    return torch.cat([model.encode(to_unit(images[at : at + 256])).latents for at in starts])


@torch.no_grad()
def codes_of(model: VQModel, images: np.ndarray) -> Tensor:
    """Tokens of images, int64 [N, 16, 16]."""
    parts = []
    for start in range(0, len(images), 32):  # more makes tables of distances that no cache holds
        latents = latents_of(model, images[start : start + 32])
        _, _, (_, _, indices) = model.quantize(latents)
        parts.append(indices.view(len(latents), *latents.shape[2:]))
    return torch.cat(parts)
