"""The captions' tokenizer: one token a word, and the same numbers in every process."""

from __future__ import annotations

import subprocess
import sys

import numpy as np

from tgo.data.world.scene import caption, draw_scene
from tgo.data.world.vocabulary import learn_tokenizer

RNG = np.random.default_rng(0)
CAPTIONS = [caption(draw_scene(RNG)) for _ in range(500)]


def test_every_word_is_one_token() -> None:
    tokenizer = learn_tokenizer(CAPTIONS, 24)
    for text, ids in zip(CAPTIONS, tokenizer(CAPTIONS).input_ids, strict=True):
        assert ids[0] == tokenizer.bos_token_id
        assert ids[-1] == tokenizer.eos_token_id == len(tokenizer) - 1
        assert tokenizer.convert_ids_to_tokens(ids[1:-1]) == [f"{w}</w>" for w in text.split()]


def test_other_processes_learn_the_same_numbers() -> None:
    program = (
        "import sys\n"
        "from tgo.data.world.vocabulary import learn_tokenizer\n"
        "texts = sys.argv[1].splitlines()\n"
        "print(learn_tokenizer(texts, 24)(texts).input_ids)"
    )
    told = {
        subprocess.check_output([sys.executable, "-c", program, "\n".join(CAPTIONS)])
        for _ in range(3)
    }
    assert told == {f"{learn_tokenizer(CAPTIONS, 24)(CAPTIONS).input_ids}\n".encode()}
