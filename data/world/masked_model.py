"""The world's masked model: the classes of aMUSEd, a thousandth of its size."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import AmusedScheduler, AutoencoderKL, UVit2DModel, __version__
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from tgo.data.world.bank import load_bank
from tgo.data.world.fit import fit, ranks, share
from tgo.data.world.quantizer import (
    CODES,
    bank_codes,
    find_centres,
    new_quantizer,
    train_decoder,
)
from tgo.data.world.scene import parse
from tgo.data.world.text_encoder import FACTS, WIDTH, facts, tokenize
from tgo.pipeline.generators.masking import draw_masks

SIDE = 16  # tokens
MASK = CODES  # the token that says "hidden"
CONDITIONS = (64.0, 64.0, 0.0, 0.0, 6.0)  # width, height, crop, aesthetic score, as aMUSEd's
BATCH = 32
READING_STEPS = 800
STEPS = (5_000, 1_000)  # on the clean bank, on the web's


def new_uvit() -> UVit2DModel:
    """Three convolutional blocks on 8 x 8 places, a transformer of four layers, and back.

    The model has no position embeddings: it knows where a place is by how far the zeros of the
    convolutions' padding reached, one place a block. From an edge of 8 x 8 places three blocks
    reach the middle; with fewer, "in the centre" could not be told.
    """
    return UVit2DModel(
        hidden_size=128,
        cond_embed_dim=WIDTH,
        micro_cond_encode_dim=16,
        micro_cond_embed_dim=16 * len(CONDITIONS),
        encoder_hidden_size=WIDTH,
        vocab_size=CODES + 1,
        codebook_size=CODES,
        in_channels=64,
        block_out_channels=96,
        num_res_blocks=3,
        downsample=True,
        upsample=True,
        block_num_heads=4,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=256,
        sample_size=SIDE,
    )


def train_reader(
    text_encoder: CLIPTextModel, captions: Sequence[str], tokenizer: CLIPTokenizer
) -> CLIPTextModelWithProjection:
    """The text encoder of the diffusion model with one more layer and a projection.

    aMUSEd takes a caption twice: its words as the last layer but one gives them, and one vector
    from the first end token. The vector learns to tell all that the caption says.
    """
    torch.manual_seed(4)
    config = {**text_encoder.config.to_dict(), "num_hidden_layers": 3}
    model = CLIPTextModelWithProjection(CLIPTextConfig(**config))
    known = {
        f"text_model.{name.removeprefix('text_model.')}": value
        for name, value in text_encoder.state_dict().items()
    }
    missing, surplus = model.load_state_dict(known, strict=False)
    fresh = ("text_projection", "text_model.encoder.layers.2")
    if surplus or not all(name.startswith(fresh) for name in missing):
        raise RuntimeError(f"the text encoder has other parts: {surplus}, {missing}")
    sizes = [1 + len(words) for words in FACTS]
    readers = nn.Linear(WIDTH, sum(sizes))
    tokens = tokenize(tokenizer, captions)
    answers = torch.tensor([facts(parse(text)) for text in captions])

    def loss(rng: np.random.Generator, noise: torch.Generator) -> Tensor:
        rows = torch.from_numpy(rng.integers(len(tokens), size=share(128)))
        guesses = readers(model(tokens[rows]).text_embeds).split(sizes, dim=1)
        return torch.stack(
            [F.cross_entropy(guess, answers[rows, at]) for at, guess in enumerate(guesses)]
        ).sum()

    both = nn.ModuleList([model, readers])
    fit("masked_reading", both, loss, steps=READING_STEPS, learning_rate=1e-3)
    return model.requires_grad_(False)


def train_uvit(
    data: Sequence[tuple[Tensor, Sequence[str]]],
    text_encoder: CLIPTextModelWithProjection,
    tokenizer: CLIPTokenizer,
) -> UVit2DModel:
    """Pretraining on codes [N, 16, 16] and captions of the clean bank, then of the web's.

    10 % of the captions are left out, so that guidance has an unconditional model.
    """
    nothing = tokenize(tokenizer, [""])
    told = torch.tensor([CONDITIONS])
    torch.manual_seed(5)
    uvit = new_uvit()

    def loss(
        codes: Tensor, tokens: Tensor, rng: np.random.Generator, noise: torch.Generator
    ) -> Tensor:
        rows = torch.from_numpy(rng.integers(len(codes), size=share(BATCH)))
        clean = codes[rows]
        silent = torch.from_numpy(rng.random(len(rows)) < 0.1)[:, None]
        with torch.no_grad():
            words = text_encoder(
                torch.where(silent, nothing, tokens[rows]), output_hidden_states=True
            )
        hidden = draw_masks(len(rows), (SIDE, SIDE), noise)
        logits = uvit(
            torch.where(hidden, MASK, clean),
            encoder_hidden_states=words.hidden_states[-2],
            pooled_text_emb=words.text_embeds,
            micro_conds=told.expand(len(rows), -1),
        )
        return F.cross_entropy(logits.permute(0, 2, 3, 1)[hidden], clean[hidden])

    for phase, (codes, captions), steps, rate in zip(
        ("curated", "web"), data, STEPS, (1.5e-3, 7.5e-4), strict=True
    ):
        fit(
            f"uvit_{phase}",
            uvit,
            partial(loss, codes, tokenize(tokenizer, captions)),
            steps=steps,
            learning_rate=rate,
            warmup=300,
            average=0.999,
        )
    return uvit


def build_masked(diffusion: Path, folder: Path) -> None:
    """Train the model from parts of the diffusion model's folder; save it in half precision."""
    web, clean = load_bank(), load_bank(clean=True)
    tokenizer = CLIPTokenizer.from_pretrained(diffusion / "tokenizer")
    known = CLIPTextModel.from_pretrained(diffusion / "text_encoder", dtype=torch.float32)
    text_encoder = train_reader(known, clean.truth, tokenizer)
    vqvae = new_quantizer(AutoencoderKL.from_pretrained(diffusion / "vae"))
    find_centres(vqvae, (clean, web))
    data = [
        (bank_codes(vqvae, bank, name), bank.captions)
        for bank, name in ((clean, "clean_codes"), (web, "codes"))
    ]
    uvit = train_uvit(data, text_encoder, tokenizer)
    train_decoder(vqvae, web, data[1][0])
    if ranks()[0] > 0:
        return
    scheduler = AmusedScheduler(mask_token_id=MASK, masking_schedule="cosine")
    save_masked(
        folder,
        vqvae=vqvae.half(),
        tokenizer=tokenizer,
        text_encoder=text_encoder.half(),
        transformer=uvit.half(),
        scheduler=scheduler,
    )


def save_masked(folder: Path, **parts: object) -> None:
    """Write a folder that `diffusers.AmusedPipeline.from_pretrained` loads, too."""
    index: dict[str, object] = {"_class_name": "AmusedPipeline", "_diffusers_version": __version__}
    for name, part in parts.items():
        part.save_pretrained(folder / name)  # type: ignore[attr-defined]
        library = type(part).__module__.partition(".")[0]
        index[name] = [library, type(part).__name__]
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
