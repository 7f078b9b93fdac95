"""Five tiny reward models with random weights, saved in the published formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from tgo.rewards import aesthetic, clip, hpsv2, imagereward, pickscore
from tgo.rewards.blip import TextConfig, VisionConfig
from tgo.rewards.heads import LinearHead

Module = TypeVar("Module", bound=torch.nn.Module)

SIZE = 32
"""Side of the models' input; 32 keeps a panel pass in milliseconds."""

MARKS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["a", "the", "red", "green", "blue", "circle", "square", "left", "right", "of", "on"]
LETTERS = [f"{mark}{c}" for mark in ("", "##") for c in "abcdefghijklmnopqrstuvwxyz"]
VOCABULARY = list(dict.fromkeys(MARKS + WORDS + LETTERS))

CAPTIONS = [
    f"a {colour} {shape} {place}"
    for colour in ("red", "green", "blue", "yellow")
    for shape in ("circle", "square", "triangle")
    for place in ("on the left", "on the right", "above a star")
]

HPS_CONFIG: dict[str, Any] = {
    "embed_dim": 24,
    "vision_cfg": {
        "image_size": SIZE,
        "layers": 2,
        "width": 32,
        "head_width": 16,
        "patch_size": 8,
    },
    "text_cfg": {
        "context_length": 77,
        "vocab_size": 49408,
        "width": 32,
        "heads": 2,
        "layers": 2,
    },
}


def clip_config(
    *, activation: str, vocabulary: int, end: int, start: int, width: int
) -> CLIPConfig:
    """Two layers of width 32; `width` is that of the joint space."""
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "hidden_act": activation,
        "projection_dim": width,
    }
    text = {
        "vocab_size": vocabulary,
        "max_position_embeddings": 77,
        "eos_token_id": end,
        "bos_token_id": start,
        "pad_token_id": end,
    }
    return CLIPConfig(
        text_config={**sizes, **text},
        vision_config={**sizes, "image_size": SIZE, "patch_size": 8},
        projection_dim=width,
    )


def clip_tokenizer(texts: list[str], size: int = 400) -> CLIPTokenizer:
    """A byte-level BPE of CLIP's kind trained on `texts`; its last two tokens are start and end."""
    trained = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    trained.normalizer = normalizers.Lowercase()
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    letters = pre_tokenizers.ByteLevel.alphabet()
    trained.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=size,
            initial_alphabet=letters,
            end_of_word_suffix="</w>",
            show_progress=False,
        ),
    )
    model = json.loads(trained.to_str())["model"]
    words = list(model["vocab"])
    words += [f"{c}</w>" for c in sorted(letters) if f"{c}</w>" not in model["vocab"]]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {word: number for number, word in enumerate(words)}
    merges = [tuple(pair) for pair in model["merges"]]
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77)


def random_pickscore() -> tuple[CLIPModel, CLIPTokenizer]:
    """A GELU CLIP with a small vocabulary of its own."""
    tokenizer = clip_tokenizer(CAPTIONS)
    config = clip_config(
        activation="gelu",
        vocabulary=len(tokenizer),
        end=tokenizer.eos_token_id,
        start=tokenizer.bos_token_id,
        width=24,
    )
    return CLIPModel(config), tokenizer


def random_clip() -> CLIPModel:
    """A quick-GELU CLIP with OpenAI's vocabulary and the ViT-L/14's joint space of 768."""
    config = clip_config(
        activation="quick_gelu", vocabulary=49408, end=49407, start=49406, width=768
    )
    return CLIPModel(config)


def random_imagereward() -> imagereward.ImageRewardNetwork:
    """BLIP with a BERT of 32 and a ViT of 48."""
    text = TextConfig(
        vocab_size=len(VOCABULARY) + 2,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=40,
    )
    vision = VisionConfig(image_size=SIZE, patch_size=8, width=48, depth=2, heads=3)
    return imagereward.ImageRewardNetwork(text, vision)


def stir(module: Module) -> Module:
    """Weights of unit gain, so that scores depend visibly on every input; returns `module`."""
    for parameter in module.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        elif parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=parameter.mean().item(), std=0.1)
    return module


def write_random_panel(folder: str | Path, seed: int = 0) -> dict[str, str]:
    """Writes five models under `folder`; returns what `Panel.load` wants."""
    folder = Path(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pick, tokenizer = random_pickscore()
        pickscore.save(folder / "pickscore", stir(pick), tokenizer)
        hpsv2.save(folder / "hpsv2", stir(hpsv2.build(HPS_CONFIG)), HPS_CONFIG)
        imagereward.save(folder / "imagereward", stir(random_imagereward()), VOCABULARY)
        clip.save(folder / "clip", stir(random_clip()))
        aesthetic.save(folder / "aesthetic", stir(LinearHead(768)), clip="../clip")
    names = ("pickscore", "hpsv2", "imagereward", "clip", "aesthetic")
    return {name: str(folder / name) for name in names}
