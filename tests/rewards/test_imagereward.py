"""ImageReward against timm's ViT and transformers' BERT, and against the published layout."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from transformers import BertConfig, BertModel

from tests.rewards.miniatures import random_imagereward, stir
from tgo.rewards import imagereward
from tgo.rewards.base import Batch
from tgo.rewards.blip import TextConfig, TextEncoder, VisionConfig, VisionEncoder
from tgo.rewards.errors import CheckpointError
from tgo.rewards.imagereward import MEAN, STD, ImageReward, ImageRewardNetwork, tokenize


@pytest.fixture(scope="module")
def model(sources: dict[str, str]) -> ImageReward:
    return imagereward.load(sources["imagereward"])


def published_layout() -> dict[str, torch.Size]:
    with torch.device("meta"):
        network = ImageRewardNetwork()
    return {key: value.shape for key, value in network.state_dict().items()}


def test_the_default_sizes_are_the_published_ones() -> None:
    layout = published_layout()
    assert layout["blip.visual_encoder.pos_embed"] == (1, 197, 1024)
    assert layout["blip.visual_encoder.blocks.23.attn.qkv.weight"] == (3072, 1024)
    assert layout["blip.text_encoder.embeddings.word_embeddings.weight"] == (30524, 768)
    assert layout["blip.text_encoder.encoder.layer.11.crossattention.self.key.weight"] == (
        768,
        1024,
    )
    assert layout["blip.text_encoder.encoder.layer.0.attention.output.LayerNorm.bias"] == (768,)
    assert layout["mlp.layers.7.weight"] == (1, 16)


def test_the_published_file_has_room_for_these_tensors_and_nothing_else() -> None:
    """Our tensors in float32, 8 bytes a position index, the archive's own 300 bytes or so a tensor.

    Together 1,786,880,927 bytes; without BLIP's two projections 2 MB would be left over.
    """
    layout = published_layout()
    positions = layout.pop("blip.text_encoder.embeddings.position_ids")
    payload = 4 * sum(shape.numel() for shape in layout.values()) + 8 * positions.numel()
    overhead = 1_786_880_927 - payload
    assert 200 < overhead / len(layout) < 400


@torch.inference_mode()
def test_vision_encoder_is_timms() -> None:
    config = VisionConfig(image_size=32, patch_size=8, width=48, depth=3, heads=3)
    ours = stir(VisionEncoder(config)).eval()
    theirs = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=48, depth=3, num_heads=3, num_classes=0
    ).eval()
    theirs.load_state_dict(ours.state_dict())
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(pixels), theirs.forward_features(pixels), atol=1e-5, rtol=0)


@torch.inference_mode()
def test_text_encoder_is_bert_with_cross_attention() -> None:
    """Transformers' decoder layers with a padding mask in place of the causal one."""
    config = TextConfig(
        vocab_size=60,
        hidden_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=96,
        max_position_embeddings=40,
    )
    ours = stir(TextEncoder(config, 48)).eval()
    sizes = {name: getattr(config, name) for name in config.__dataclass_fields__}
    theirs = BertModel(
        BertConfig(**sizes, is_decoder=True, add_cross_attention=True), add_pooling_layer=False
    ).eval()
    state = ours.state_dict()
    state.pop("embeddings.position_ids")
    state["embeddings.token_type_embeddings.weight"] = torch.zeros(2, 48)
    theirs.load_state_dict(state, strict=False)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 60, (4, 35), generator=generator)
    mask = torch.arange(35) < torch.tensor([3, 35, 1, 20])[:, None]
    image = torch.randn(4, 17, 48, generator=generator)
    full = torch.zeros(4, 1, 35, 35).masked_fill(~mask[:, None, None, :], float("-inf"))
    expected = theirs(
        ids, attention_mask=full, encoder_hidden_states=image, use_cache=False
    ).last_hidden_state
    torch.testing.assert_close(
        ours(ids, mask.long(), image)[:, 0], expected[:, 0], atol=1e-5, rtol=0
    )


@torch.inference_mode()
def test_score_is_the_standardised_head(
    model: ImageReward, images: torch.Tensor, prompts: list[str]
) -> None:
    batch = Batch(images, prompts)
    ids, mask = tokenize(model.tokenizer, prompts)
    raw = model.network.logits(batch.pixels(model.view, torch.float32), ids, mask)
    torch.testing.assert_close(model.score(batch), (raw - MEAN) / STD, atol=1e-5, rtol=0)


def test_score_depends_on_image_and_prompt(model: ImageReward, images: torch.Tensor) -> None:
    scores = model.score(Batch(images[:2].repeat(2, 1, 1, 1), ["a red circle"] * 2 + ["blue"] * 2))
    assert len({round(score, 4) for score in scores.tolist()}) == 4


def test_tokens(model: ImageReward) -> None:
    """[CLS] first (BLIP's [ENC] is not used here), 35 places, [SEP] kept when cut."""
    ids, mask = tokenize(model.tokenizer, ["A red circle", "", "a " * 50, "[ENC]"])
    cls, sep, a = (model.tokenizer.convert_tokens_to_ids(t) for t in ("[CLS]", "[SEP]", "a"))
    words = model.tokenizer.convert_tokens_to_ids(["a", "red", "circle"])
    assert ids.shape == mask.shape == (4, 35)
    assert ids[0, :6].tolist() == [cls, *words, sep, 0]
    assert ids[1, :3].tolist() == [cls, sep, 0]
    assert mask.sum(1).tolist() == [5, 2, 35, 3]
    assert ids[2].tolist() == [cls] + [a] * 33 + [sep]
    assert ids[3, 1] == len(model.tokenizer) - 1


def test_only_35_tokens_count(model: ImageReward, images: torch.Tensor) -> None:
    prompts = ["a " * 33 + "red", "a " * 33 + "blue", "a " * 32 + "blue"]
    scores = model.score(Batch(images[:1].expand(3, -1, -1, -1), prompts))
    assert scores[0] == scores[1] != scores[2]


def test_it_trains() -> None:
    network = random_imagereward().train()
    ids = torch.randint(1, 20, (2, 35))
    network.logits(torch.randn(2, 3, 32, 32), ids, torch.ones_like(ids)).sum().backward()
    without = {name for name, value in network.named_parameters() if value.grad is None}
    assert without == {
        f"blip.{side}_proj.{part}" for side in ("vision", "text") for part in ("weight", "bias")
    }


@pytest.mark.parametrize(
    "change",
    [{"hidden_act": "relu"}, {"position_embedding_type": "relative_key"}],
    ids=lambda change: next(iter(change)),
)
def test_other_berts_are_refused(change: dict[str, str]) -> None:
    with pytest.raises(CheckpointError, match=next(iter(change))):
        TextConfig.from_med_config(change)


def test_what_is_saved_is_16_bit(sources: dict[str, str]) -> None:
    state = torch.load(Path(sources["imagereward"]) / "ImageReward.pt", weights_only=True)
    assert {value.dtype for value in state.values()} == {torch.float16, torch.int64}
