"""PickScore, CLIP and HPSv2 against their references: transformers and plain open_clip."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import open_clip
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize
from torchvision import transforms
from torchvision.transforms import functional as tv
from transformers import CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from tests.rewards.miniatures import HPS_CONFIG, SIZE
from tgo.rewards import clip, ftfy_tokens, hpsv2, pickscore
from tgo.rewards.base import Batch
from tgo.rewards.errors import CheckpointError
from tgo.rewards.images import MEAN, STD, render

QUOTES = "\u201ccurly\u201d &amp; it\u2019s"


def wide(count: int) -> torch.Tensor:
    """Pictures of 40 x 74 pixels: resized, and cropped or padded by odd numbers of pixels."""
    generator = torch.Generator().manual_seed(3)
    small = torch.rand(count, 3, 5, 9, generator=generator)
    return (torch.nn.functional.interpolate(small, (40, 74)) * 255).to(torch.uint8)


def pillow(images: torch.Tensor) -> list[Image.Image]:
    return [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]


def set_activation(folder: Path, activation: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    for side in ("text_config", "vision_config"):
        config[side]["hidden_act"] = activation
    (folder / "config.json").write_text(json.dumps(config))


@torch.inference_mode()
def test_pickscore_is_the_formula_of_its_model_card(
    sources: dict[str, str], prompts: list[str]
) -> None:
    folder = sources["pickscore"]
    images = wide(len(prompts))
    model = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    sides = {"size": {"shortest_edge": SIZE}, "crop_size": {"height": SIZE, "width": SIZE}}
    pixels = CLIPImageProcessorPil(**sides)(pillow(images), return_tensors="pt")
    text = tokenizer(prompts, padding=True, truncation=True, max_length=77, return_tensors="pt")
    image_embs = model.get_image_features(**pixels).pooler_output
    image_embs = image_embs / image_embs.norm(dim=-1, keepdim=True)
    text_embs = model.get_text_features(**text).pooler_output
    text_embs = text_embs / text_embs.norm(dim=-1, keepdim=True)
    expected = (model.logit_scale.exp() * (text_embs @ image_embs.T)).diagonal()

    scores = pickscore.load(folder).score(Batch(images, prompts))
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_clip_is_the_cosine_of_transformers_with_openais_tokens(
    sources: dict[str, str], prompts: list[str]
) -> None:
    images = wide(len(prompts))
    model = CLIPModel.from_pretrained(sources["clip"], dtype=torch.float32).eval()
    transform = transforms.Compose(
        [
            transforms.Resize(SIZE, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(SIZE),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    pixels = torch.stack([transform(image) for image in pillow(images)])
    out = model(pixel_values=pixels, input_ids=open_clip.tokenize(prompts))
    expected = (out.image_embeds * out.text_embeds).sum(-1)
    scores = clip.load(sources["clip"]).score(Batch(images, prompts))
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("antialias", [True, False])
def test_hpsv2_is_plain_open_clip(
    sources: dict[str, str], prompts: list[str], tmp_path: Path, antialias: bool
) -> None:
    (tmp_path / "tiny-hps.json").write_text(json.dumps(HPS_CONFIG))
    open_clip.add_model_config(tmp_path / "tiny-hps.json")
    model = open_clip.create_model("tiny-hps", output_dict=True).eval()
    path = Path(sources["hpsv2"]) / "HPS_v2.1_compressed.pt"
    model.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    images = wide(len(prompts))
    floats = torch.stack([tv.to_tensor(image) for image in pillow(images)])
    bicubic = tv.InterpolationMode.BICUBIC
    small = tv.resize(floats, [17, 32], bicubic, antialias=antialias)  # round(40 * 32 / 74) = 17
    pixels = tv.normalize(tv.pad(small, [0, 7, 0, 8], fill=0), list(MEAN), list(STD))
    out = model(pixels, open_clip.get_tokenizer("ViT-H-14")(prompts))
    expected = (out["image_features"] @ out["text_features"].T).diagonal()

    scores = hpsv2.load(path, antialias=antialias).score(Batch(images, prompts))
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=0)


def test_antialiasing_moves_hps_scores(sources: dict[str, str], prompts: list[str]) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (8, 3, 96, 96), dtype=torch.uint8, generator=generator)
    on, off = (
        hpsv2.load(sources["hpsv2"], antialias=setting).score(Batch(noise, prompts))
        for setting in (True, False)
    )
    assert (on - off).abs().mean() > 1e-3


@pytest.mark.parametrize(
    ("module", "name", "wrong"), [(clip, "clip", "gelu"), (pickscore, "pickscore", "quick_gelu")]
)
def test_wrong_activation_is_refused(
    module: object, name: str, wrong: str, sources: dict[str, str], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(sources[name], tmp_path / name))
    set_activation(folder, wrong)
    with pytest.raises(CheckpointError, match=r"config.json: text_config.hidden_act"):
        module.load(folder)  # type: ignore[attr-defined]


def test_hps_with_quick_gelu_is_refused(sources: dict[str, str], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sources["hpsv2"], tmp_path / "hpsv2"))
    config = {"model_cfg": {**HPS_CONFIG, "quick_gelu": True}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="quick_gelu"):
        hpsv2.load(folder)


@torch.inference_mode()
def test_activations_differ_which_is_why(sources: dict[str, str], images: torch.Tensor) -> None:
    """The same weights load into either architecture; the embeddings are not the same."""
    network = clip.load_tower(sources["clip"]).network
    place = clip.load(sources["clip"]).tower.view.place(48, 48)
    pixels = render(images, place)
    right = normalize(network.get_image_features(pixel_values=pixels).pooler_output, dim=-1)
    for layer in network.vision_model.encoder.layers:
        layer.mlp.activation_fn = torch.nn.GELU()
    wrong = normalize(network.get_image_features(pixel_values=pixels).pooler_output, dim=-1)
    assert (right - wrong).abs().max() > 1e-4


def test_ftfy_tokens_of_awkward_prompts() -> None:
    """Golden ids: quotes are straightened, entities unescaped, cut prompts keep the end token."""
    tokens = ftfy_tokens.tokenizer(77)
    start, end = 49406, 49407
    straight = tokens(['"curly" & it\'s'])
    assert torch.equal(tokens([QUOTES]), straight)
    assert tokens(["a photo of a cat"])[0, :8].tolist() == [
        start, 320, 1125, 539, 320, 2368, end, 0,
    ]  # fmt: skip
    assert tokens([""])[0, :3].tolist() == [start, end, 0]
    long = tokens(["a " * 100])[0]
    assert long.tolist() == [start] + [320] * 75 + [end]
    assert ftfy_tokens.tokenizer(16)(["a " * 100])[0].tolist() == [start] + [320] * 14 + [end]


def test_only_77_tokens_count(sources: dict[str, str], images: torch.Tensor) -> None:
    same = images[:1].expand(3, -1, -1, -1)
    prompts = ["a " * 75 + "red", "a " * 75 + "blue", "a " * 74 + "blue"]
    for module, name in ((clip, "clip"), (pickscore, "pickscore"), (hpsv2, "hpsv2")):
        scores = module.load(sources[name]).score(Batch(same, prompts))
        assert scores[0] == scores[1], name
        assert scores[0] != scores[2], name
