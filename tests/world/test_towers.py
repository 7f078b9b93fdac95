"""Weights carried from one layout to another compute the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import CLIPModel

from tgo.data.world.contrastive import new_clip, tokens_of
from tgo.data.world.render import draw
from tgo.data.world.scene import caption, draw_scene
from tgo.data.world.towers import (
    BLIP_VISION,
    HPS_CONFIG,
    WORDS,
    clip_config,
    pixels,
    same_words,
    to_blip,
    to_open_clip,
)
from tgo.data.world.vocabulary import learn_tokenizer
from tgo.rewards import hpsv2
from tgo.rewards.blip import VisionEncoder

RNG = np.random.default_rng(0)
SCENES = [draw_scene(RNG) for _ in range(64)]
CAPTIONS = [caption(scene) for scene in SCENES]
WHOLE = [text for text in CAPTIONS if "cyan" not in text]  # two of OpenAI's tokens


@pytest.fixture(scope="module")
def clip() -> CLIPModel:
    """Random, and with GELU, so that it computes what the others do."""
    torch.manual_seed(0)
    model = new_clip().eval()
    state = model.state_dict()
    gelu = clip_config(activation="gelu", vocabulary=49408, start=49406, end=49407)
    model = CLIPModel(gelu).eval()
    model.load_state_dict(
        {key: value + 0.02 * torch.randn(value.shape) for key, value in state.items()}
    )
    return model


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    return pixels(draw(RNG, SCENES))


def test_open_clip_computes_the_same(clip: CLIPModel, pictures: torch.Tensor) -> None:
    other = hpsv2.build(HPS_CONFIG).eval()
    other.load_state_dict(to_open_clip(clip.state_dict()), strict=True)
    ids = tokens_of(CAPTIONS)
    with torch.no_grad():
        mine = clip.get_image_features(pixel_values=pictures).pooler_output
        torch.testing.assert_close(other.encode_image(pictures), mine, atol=1e-4, rtol=1e-4)
        mine = clip.get_text_features(input_ids=ids).pooler_output
        torch.testing.assert_close(other.encode_text(ids), mine, atol=1e-4, rtol=1e-4)


def test_a_smaller_vocabulary_says_the_same(clip: CLIPModel) -> None:
    tokenizer = learn_tokenizer(CAPTIONS, WORDS)
    assert tokenizer.convert_ids_to_tokens([len(tokenizer) - 1]) == ["<|endoftext|>"]
    small = CLIPModel(
        clip_config(
            activation="gelu",
            vocabulary=len(tokenizer),
            start=tokenizer.bos_token_id,
            end=tokenizer.eos_token_id,
        )
    ).eval()
    state = dict(clip.state_dict())
    key = "text_model.embeddings.token_embedding.weight"
    state[key] = same_words(state[key], tokenizer)
    small.load_state_dict(state)
    ids = tokenizer(WHOLE, padding="max_length", max_length=WORDS, return_tensors="pt").input_ids
    with torch.no_grad():
        mine = small.get_text_features(input_ids=ids).pooler_output
        theirs = clip.get_text_features(input_ids=tokens_of(WHOLE)).pooler_output
    torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)


def test_blip_computes_nearly_the_same(clip: CLIPModel, pictures: torch.Tensor) -> None:
    tower = VisionEncoder(BLIP_VISION).eval()
    tower.load_state_dict(to_blip(clip.state_dict(), pictures), strict=True)
    with torch.no_grad():
        mine = tower(pictures)[:, 0]
        theirs = clip.vision_model(pixel_values=pictures).pooler_output
    assert F.cosine_similarity(mine, theirs).mean() > 0.9
