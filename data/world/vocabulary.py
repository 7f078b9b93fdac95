"""A byte-pair tokenizer of CLIP's kind, learned on the captions of the world."""

from __future__ import annotations

import json
from collections.abc import Iterable

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

END = "</w>"
MERGES = 400  # more than the captions' words need: each becomes one token
_PRIVATE = 0xE000  # where Unicode's private use area begins


def learn_tokenizer(texts: Iterable[str], length: int) -> CLIPTokenizer:
    """A small byte-level tokenizer, whose last two tokens are start and end.

    The library's trainer numbers last letters ("d</w>") in an order that changes from run to run,
    and with them every tie between merges. So a letter that ends a word is told to it as a letter
    of its own, and the numbers are the same in every process.

    Args:
        texts: ASCII, words parted by spaces.
        length: tokens that a prompt is cut to.

    Returns:
        The tokenizer, with CLIP's interface.
    """
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    last = {letter: chr(_PRIVATE + at) for at, letter in enumerate(letters)}
    written = {mark: letter + END for letter, mark in last.items()}
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=2 * len(letters) + MERGES,
        initial_alphabet=[*letters, *last.values()],
        show_progress=False,
    )
    words = (word for text in texts for word in text.lower().split())
    bpe.train_from_iterator((word[:-1] + last[word[-1]] for word in words), trainer)
    model = json.loads(bpe.to_str())["model"]

    def spell(token: str) -> str:
        return token[:-1] + written.get(token[-1], token[-1])

    tokens = [spell(token) for token in sorted(model["vocab"], key=model["vocab"].__getitem__)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={token: number for number, token in enumerate(tokens)},
        merges=[(spell(left), spell(right)) for left, right in model["merges"]],
        model_max_length=length,
    )
