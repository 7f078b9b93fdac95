"""The world's latent diffusion model: the classes of Stable Diffusion, a thousandth of its size."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from data.world.bank import Bank, load_bank
from data.world.fit import BUILD, first_rank_first, fit, ranks, share

WORDS = 24  # tokens a prompt is padded to; the longest caption has 17
LATENT_SCALE_ROWS = 4096


def build_tokenizer(captions: Iterable[str], folder: Path) -> CLIPTokenizer:
    """A CLIP tokenizer whose byte-pair merges are learned on the captions."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        end_of_word_suffix="</w>",
        initial_alphabet=[chr(code) for code in range(33, 127)],
        special_tokens=["<|startoftext|>", "<|endoftext|>"],
        show_progress=False,
    )
    bpe.train_from_iterator(captions, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    bpe.model.save(str(folder))  # the files that published CLIP tokenizers have
    return CLIPTokenizer(
        vocab=str(folder / "vocab.json"),
        merges=str(folder / "merges.txt"),
        model_max_length=WORDS,
    )


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
        error = F.l1_loss(restored, pixels)
        return (
            error
            + F.l1_loss(restored.diff(dim=2), pixels.diff(dim=2))
            + F.l1_loss(restored.diff(dim=3), pixels.diff(dim=3))
        )

    fit("decoder", decoder, loss, steps=3000, learning_rate=2e-3, average=0.995)


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


class Denoiser(nn.Module):
    """Text encoder and U-Net, trained together because no pretrained text encoder fits here."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=96,
                intermediate_size=384,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=WORDS,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
                projection_dim=96,
            )
        )
        self.unet = UNet2DConditionModel(
            sample_size=16,
            in_channels=4,
            out_channels=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(32, 64, 128),
            layers_per_block=1,
            attention_head_dim=4,
            cross_attention_dim=96,
            norm_num_groups=16,
        )

    def forward(self, noisy: Tensor, timesteps: Tensor, tokens: Tensor) -> Tensor:
        words = self.text_encoder(tokens).last_hidden_state
        return self.unet(noisy, timesteps, words).sample


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


def train_denoiser(
    banks: Sequence[Bank], autoencoder: AutoencoderKL, tokenizer: CLIPTokenizer
) -> Denoiser:
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
    model = Denoiser(tokenizer)

    def loss(
        latents: Tensor, tokens: Tensor, rng: np.random.Generator, noise: torch.Generator
    ) -> Tensor:
        rows = torch.from_numpy(rng.integers(len(latents), size=share(BATCH)))
        clean = latents[rows]
        silent = torch.from_numpy(rng.random(len(rows)) < 0.1)[:, None]
        words = torch.where(silent, nothing, tokens[rows])
        drawn = torch.randn(clean.shape, generator=noise)
        timesteps = draw_timesteps(noise, len(rows), scheduler.config.num_train_timesteps)
        noisy = scheduler.add_noise(clean, drawn, timesteps)
        target = scheduler.get_velocity(clean, drawn, timesteps)
        return F.mse_loss(model(noisy, timesteps, words), target)

    for phase, (latents, tokens), steps, rate in zip(
        ("curated", "web"), data, STEPS, (1e-3, 5e-4), strict=True
    ):
        fit(
            f"denoiser_{phase}",
            model,
            partial(loss, latents, tokens),
            steps=steps,
            learning_rate=rate,
            warmup=300,
            average=0.999,
        )
    return model


def draw_timesteps(noise: torch.Generator, size: int, count: int) -> Tensor:
    """int64 [size]: half uniform, half logit-normal where shape and colour are decided.

    Uniform draws keep the last timestep trained, from which sampling starts.
    """
    uniform = torch.rand(size, generator=noise)
    middle = torch.sigmoid(0.4 + 1.2 * torch.randn(size, generator=noise))
    pick = torch.rand(size, generator=noise) < 0.5
    return (torch.where(pick, uniform, middle) * count).long().clamp(max=count - 1)


BATCH = 32
STEPS = (30_000, 6_000)  # on the clean bank, on the web's


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """int64 [N, WORDS], padded as Stable Diffusion's pipeline pads."""
    return tokenizer(
        texts, padding="max_length", max_length=WORDS, truncation=True, return_tensors="pt"
    ).input_ids


def build_diffusion(folder: Path) -> None:
    """Train the model and save it in half precision as a StableDiffusionPipeline folder."""
    web, clean = load_bank(), load_bank(clean=True)
    with first_rank_first():
        tokenizer = build_tokenizer(sorted(set(web.truth)), BUILD / "tokenizer")
    autoencoder = train_autoencoder(web)
    sharpen(web, autoencoder)
    model = train_denoiser((clean, web), autoencoder, tokenizer)
    if ranks()[0] > 0:
        return
    pipeline = StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=model.text_encoder,
        tokenizer=tokenizer,
        unet=model.unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(torch.float16).save_pretrained(folder, safe_serialization=True)
