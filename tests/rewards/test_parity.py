"""Our scores are those of the official packages, to 1e-5, for whatever is fed to both.

The packages are installed from the lock; where they are missing these tests fail, not skip.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from tests.rewards import openai_format
from tests.rewards.awkward import PROMPTS, write_pictures
from tests.rewards.miniatures import SIZE, clip_config, stir
from tgo.rewards import clip, ftfy_tokens, hpsv2, imagereward, official, pickscore
from tgo.rewards.base import Batch, RewardModel
from tgo.rewards.panel import Panel
from tgo.rewards.pictures import decode

BOUND = 1e-5


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


def pairs(pictures: dict[str, Path]) -> list[tuple[Path, str]]:
    """Every picture with every prompt."""
    return [(path, prompt) for path in pictures.values() for prompt in PROMPTS]


def ours(model: RewardModel, rows: Sequence[tuple[Path, str]]) -> torch.Tensor:
    """All rows in one batch of mixed sizes and modes."""
    return model.score(Batch([decode(path) for path, _ in rows], [prompt for _, prompt in rows]))


def same(scores: torch.Tensor, expected: Sequence[float] | torch.Tensor, bound: float) -> None:
    expected = torch.as_tensor(expected, dtype=torch.float32)
    assert scores.shape == expected.shape
    assert scores.std() > 100 * bound
    torch.testing.assert_close(scores, expected, atol=bound, rtol=0)


def test_imagereward_is_image_reward(sources: dict[str, str], pictures: dict[str, Path]) -> None:
    package = official.load("imagereward", sources["imagereward"])
    assert isinstance(package, official.OfficialImageReward)
    rows = pairs(pictures)
    theirs = [package.network.score(prompt, str(path)) for path, prompt in rows]
    same(ours(imagereward.load(sources["imagereward"]), rows), theirs, BOUND)


def test_image_reward_ranks_as_it_scores(
    sources: dict[str, str], pictures: dict[str, Path]
) -> None:
    package = official.load("imagereward", sources["imagereward"])
    assert isinstance(package, official.OfficialImageReward)
    paths = list(pictures.values())
    _, theirs = package.network.inference_rank(PROMPTS[0], [str(path) for path in paths])
    rows = [(path, PROMPTS[0]) for path in paths]
    same(ours(imagereward.load(sources["imagereward"]), rows), theirs, BOUND)


def test_hpsv2_is_hpsv2(sources: dict[str, str], pictures: dict[str, Path]) -> None:
    package = official.load("hpsv2", sources["hpsv2"])
    assert isinstance(package, official.OfficialHPSv2)
    readable = {name: path for name, path in pictures.items() if name != "rgba.png"}
    module = official.import_hpsv2()
    module.model_dict.update(package.parts)
    rows = pairs(readable)
    theirs = [
        float(module.score(str(path), prompt, cp=str(package.path))[0]) for path, prompt in rows
    ]
    same(ours(hpsv2.load(sources["hpsv2"]), rows), theirs, BOUND)


def test_hpsv2_cannot_read_transparency_and_we_drop_it(
    sources: dict[str, str], pictures: dict[str, Path]
) -> None:
    package = official.load("hpsv2", sources["hpsv2"])
    picture = decode(pictures["rgba.png"])
    with pytest.raises(RuntimeError, match="channels"):
        package.score(Batch([picture], ["a red circle"]))
    opaque = package.score(Batch([picture.rgb], ["a red circle"]))
    scores = hpsv2.load(sources["hpsv2"]).score(Batch([picture], ["a red circle"]))
    torch.testing.assert_close(scores, opaque, atol=BOUND, rtol=0)


@torch.inference_mode()
def test_pickscore_is_transformers(sources: dict[str, str], pictures: dict[str, Path]) -> None:
    """The model card's lines, with the Pillow image processor it was published with."""
    folder = sources["pickscore"]
    model = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    sides = {"size": {"shortest_edge": SIZE}, "crop_size": {"height": SIZE, "width": SIZE}}
    processor = CLIPImageProcessorPil(**sides)
    rows = pairs(pictures)
    theirs = []
    for path, prompt in rows:
        images = processor(Image.open(path), return_tensors="pt")
        words = tokenizer(prompt, padding=True, truncation=True, max_length=77, return_tensors="pt")
        image = model.get_image_features(**images).pooler_output
        text = model.get_text_features(**words).pooler_output
        image, text = (x / torch.norm(x, dim=-1, keepdim=True) for x in (image, text))
        theirs.append((model.logit_scale.exp() * (text @ image.T)[0])[0])
    same(ours(pickscore.load(folder), rows), torch.stack(theirs), BOUND)


@torch.inference_mode()
def test_clip_is_openais(tmp_path: Path, pictures: dict[str, Path]) -> None:
    import clip as openai

    config = clip_config(
        activation="quick_gelu", vocabulary=49408, end=49407, start=49406, width=768
    ).to_dict()
    for side in ("text_config", "vision_config"):
        config[side] |= {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 1}
    torch.manual_seed(0)
    network = stir(CLIPModel(CLIPConfig.from_dict(config))).half().float()
    clip.save(tmp_path / "clip", network)
    torch.save(openai_format.state_dict(network), tmp_path / "ViT.pt")
    reference, transform = openai.load(str(tmp_path / "ViT.pt"), device="cpu")
    rows = pairs(pictures)
    theirs = []
    for path, prompt in rows:
        image = reference.encode_image(transform(Image.open(path))[None])
        text = reference.encode_text(openai.tokenize([prompt], truncate=True))
        theirs.append(torch.cosine_similarity(image, text)[0])
    same(ours(clip.load(tmp_path / "clip"), rows), torch.stack(theirs), BOUND)


def real_prompts() -> list[str]:
    """PartiPrompts and HPSv2's own, where they lie in `shared/prompts` beside the repository."""
    beside = Path(__file__).parents[3] / "shared/prompts"
    if not beside.is_dir():
        pytest.skip(f"no prompts at {beside}")
    with (beside / "PartiPrompts.tsv").open(encoding="utf-8") as file:
        parti = [
            row["Prompt"] for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        ]
    lines = (beside / "HPSv2_eval.jsonl").read_text(encoding="utf-8").splitlines()
    return parti + [json.loads(line)["prompt"] for line in lines]


def test_tokens_of_real_prompts_are_openais() -> None:
    import clip as openai

    prompts = real_prompts() + PROMPTS
    assert len(prompts) > 4000
    ours = ftfy_tokens.tokenizer(77)(prompts)
    assert torch.equal(ours, openai.tokenize(prompts, truncate=True).long())


def test_the_backend_is_the_package(sources: dict[str, str], pictures: dict[str, Path]) -> None:
    """`backend: official` in a panel, beside our own models, on readable pictures."""
    names = [name for name in pictures if name != "rgba.png"]
    images = [decode(pictures[name]) for name in names]
    prompts = [PROMPTS[place % 3] for place in range(len(names))]
    theirs = Panel.load(
        {
            name: {"source": sources[name], "backend": "official"}
            for name in ("hpsv2", "imagereward")
        }
        | {"clip": sources["clip"]}
    )
    mine = Panel.load({name: sources[name] for name in theirs.names})
    one, two = theirs.score(images, prompts), mine.score(images, prompts)
    for name in theirs.names:
        torch.testing.assert_close(one[name], two[name], atol=BOUND, rtol=0, msg=name)
    assert theirs.describe()["hpsv2"]["preprocessing"] == "hpsv2 1.2.0"
    assert torch.equal(one["clip"], two["clip"])
