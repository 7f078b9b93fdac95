"""The world's latent diffusion model: the classes of Stable Diffusion, a thousandth of its size."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTokenizer

from tgo.data.world.autoencoder import bank_latents, sharpen, train_autoencoder
from tgo.data.world.bank import Bank, load_bank
from tgo.data.world.fit import fit, ranks, share
from tgo.data.world.text_encoder import WIDTH, WORDS, tokenize, train_text_encoder
from tgo.data.world.vocabulary import learn_tokenizer

BATCH = 32
STEPS = (8_500, 1_500)  # on the clean bank, on the web's


def new_unet() -> UNet2DConditionModel:
    """Text comes in twice: word by word through attention, pooled through the time embedding."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        block_out_channels=(32, 64, 128),
        layers_per_block=1,
        attention_head_dim=4,
        cross_attention_dim=WIDTH,
        norm_num_groups=16,
        resnet_time_scale_shift="scale_shift",
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    )


def build_scheduler() -> DDIMScheduler:
    """v-prediction and zero terminal SNR (Lin et al. 2024): sampling may start from pure noise."""
    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,  # what StableDiffusionPipeline expects; trailing spacing ignores it
    )


def train_unet(
    banks: Sequence[Bank],
    autoencoder: AutoencoderKL,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
) -> UNet2DConditionModel:
    """Pretraining, first on the clean bank, then on the web's wrong captions and poor pictures.

    10 % of the captions are left out, so that guidance has an unconditional model.
    """
    data = [
        (
            bank_latents(bank, autoencoder, name) * autoencoder.config.scaling_factor,
            tokenize(tokenizer, bank.captions),
        )
        for bank, name in zip(banks, ("clean_latents", "latents"), strict=True)
    ]
    nothing = tokenize(tokenizer, [""])
    scheduler = build_scheduler()
    torch.manual_seed(1)
    unet = new_unet()

    def loss(
        latents: Tensor, tokens: Tensor, rng: np.random.Generator, noise: torch.Generator
    ) -> Tensor:
        rows = torch.from_numpy(rng.integers(len(latents), size=share(BATCH)))
        clean = latents[rows]
        silent = torch.from_numpy(rng.random(len(rows)) < 0.1)[:, None]
        with torch.no_grad():
            words = text_encoder(torch.where(silent, nothing, tokens[rows])).last_hidden_state
        drawn = torch.randn(clean.shape, generator=noise)
        timesteps = draw_timesteps(noise, len(rows), scheduler.config.num_train_timesteps)
        noisy = scheduler.add_noise(clean, drawn, timesteps)
        target = scheduler.get_velocity(clean, drawn, timesteps)
        return F.mse_loss(unet(noisy, timesteps, words).sample, target)

    for phase, (latents, tokens), steps, rate in zip(
        ("curated", "web"), data, STEPS, (1e-3, 5e-4), strict=True
    ):
        fit(
            f"unet_{phase}",
            unet,
            partial(loss, latents, tokens),
            steps=steps,
            learning_rate=rate,
            warmup=300,
            average=0.999,
        )
    return unet


def draw_timesteps(noise: torch.Generator, size: int, count: int) -> Tensor:
    """int64 [size]: half uniform, half logit-normal where shape and colour are decided.

    Uniform draws keep the last timestep trained, from which sampling starts.
    """
    uniform = torch.rand(size, generator=noise)
    middle = torch.sigmoid(0.4 + 1.2 * torch.randn(size, generator=noise))
    pick = torch.rand(size, generator=noise) < 0.5
    return (torch.where(pick, uniform, middle) * count).long().clamp(max=count - 1)


def build_diffusion(folder: Path) -> None:
    """Train the model and save it in half precision as a StableDiffusionPipeline folder."""
    web, clean = load_bank(), load_bank(clean=True)
    tokenizer = learn_tokenizer(sorted(set(web.truth)), WORDS)
    text_encoder = train_text_encoder(clean.truth, tokenizer)
    autoencoder = train_autoencoder(web)
    sharpen(web, autoencoder)
    unet = train_unet((clean, web), autoencoder, text_encoder, tokenizer)
    if ranks()[0] > 0:
        return
    pipeline = StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(torch.float16).save_pretrained(folder, safe_serialization=True)
