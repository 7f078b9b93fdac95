"""What the tiny models of `tests.family_models` are put together from."""

from __future__ import annotations

from typing import Any

from tests.models import WORDS, clip_tokenizer

RESOLUTION = 16
LARGER = {"sana": 32}
"""Pixels a side where a stock pipeline makes no smaller image."""
CHAT = (
    "{% for message in messages %}user: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
CONTENT_PARTS = (
    "{% for message in messages %}{{ message['role'] }}: "
    "{% for part in message['content'] %}{{ part['text'] }}{% endfor %}\n{% endfor %}"
)
"""Chats whose messages are lists of parts, text among them."""


def unet(context: int) -> dict[str, Any]:
    return {
        "sample_size": 8,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": context,
        "attention_head_dim": 8,
        "norm_num_groups": 4,
    }


def vae(**settings: Any) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=RESOLUTION,
        **settings,
    )


def clip(kind: str, **settings: Any) -> Any:
    import transformers

    tokenizer = clip_tokenizer()
    config = transformers.CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=12,
        projection_dim=16,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **settings,
    )
    return getattr(transformers, kind)(config)


def t5(kind: str) -> Any:
    import transformers

    config = transformers.T5Config if kind == "T5EncoderModel" else transformers.UMT5Config
    return getattr(transformers, kind)(
        config(
            vocab_size=len(t5_tokenizer()),
            d_model=40,
            d_kv=8,
            d_ff=32,
            num_layers=2,
            num_heads=2,
            feed_forward_proj="gated-gelu",
        )
    )


def t5_tokenizer() -> Any:
    from transformers import T5Tokenizer

    pieces = ["▁", *(f"▁{word}" for word in WORDS.split()), *map(chr, range(33, 127))]
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocabulary = special + [(piece, -len(piece) / 8) for piece in pieces]
    return T5Tokenizer(vocab=vocabulary, extra_ids=0)


def gemma_tokenizer() -> Any:
    from transformers import GemmaTokenizer

    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "▁", *map(chr, range(33, 127))]
    return GemmaTokenizer(vocab={piece: n for n, piece in enumerate(pieces)}, merges=[])


def resolution(kind: str) -> int:
    return LARGER.get(kind, RESOLUTION)


def qwen_tokenizer(chat: str = CHAT, *, images: bool = False) -> Any:
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    letters = sorted(ByteLevel.alphabet())
    tokenizer = Qwen2Tokenizer(
        vocab={token: index for index, token in enumerate([*letters, "<|endoftext|>"])}, merges=[]
    )
    if images:  # what a processor of text and images looks for
        tokenizer.add_tokens(["[IMG]", "[IMG_BREAK]", "[IMG_END]"], special_tokens=True)
    tokenizer.chat_template = chat
    return tokenizer


def flow_scheduler(**settings: Any) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(**settings)
