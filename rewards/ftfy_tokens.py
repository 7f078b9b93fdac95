"""OpenAI's CLIP tokenizer (ftfy, HTML unescape, lower case, 49,408 tokens) from open_clip."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor

VOCABULARY = 49408
END = VOCABULARY - 1


@lru_cache(maxsize=1)
def _tokenizer() -> SimpleTokenizer:
    return SimpleTokenizer()


def tokenizer(length: int) -> Callable[[Sequence[str]], Tensor]:
    """A function from prompts to ids, int64 [N, length].

    Longer prompts are cut before the end token, shorter ones padded with 0.
    """
    return lambda prompts: _tokenizer()(list(prompts), context_length=length)
