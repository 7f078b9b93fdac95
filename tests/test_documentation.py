"""Every Python block of the README, the docs and the cards runs, on the world's model."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from tests import adapters
from tests.pipeline import finished_run
from tests.workspace import ROOT
from tgo.data.world.scene import draw_scene
from tgo.pipeline import layout
from tgo.pipeline.cards import model_card
from tgo.pipeline.generators import load_generator

pytestmark = pytest.mark.slow
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
HERE = {"openai/clip-vit-large-patch14": "data/world/rewards/clip"}
"""What has to be fetched elsewhere, and what stands in for it."""


def blocks(text: str) -> list[str]:
    return re.findall(r"^```py(?:thon)?\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def with_code() -> list[Path]:
    return [page for page in PAGES if blocks(page.read_text(encoding="utf-8"))]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder as a run leaves it, with only the files that the code blocks read."""
    root = tmp_path_factory.mktemp("documented")
    (root / "data").mkdir()
    (root / "data/world").symlink_to(ROOT / "data/world")
    shutil.copytree(ROOT / "data/world/diffusion", root / layout.TUNED)
    family = load_generator(finished_run.make_settings().generator)
    adapters.write(family, root / layout.TUNED, rank=2)
    rng = np.random.default_rng(0)
    scenes = [draw_scene(rng) for _ in range(2)]
    finished_run.write_scored(root / layout.SCORED, scenes, rng, 0.5, 1)
    (root / "images").mkdir()
    for name in ("one", "two"):
        Image.new("RGB", (64, 64), "red").save(root / f"images/{name}.png")
    (root / "prompts.csv").write_text("file_name,prompt\none.png,a\ntwo.png,b\n")
    return root


@pytest.fixture
def names(project: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Variables that code blocks use but do not define; runs in the project folder."""
    monkeypatch.chdir(project)
    monkeypatch.setattr(Image.Image, "show", lambda image: None)
    return {
        "images": torch.zeros(2, 3, 64, 64, dtype=torch.uint8),
        "prompts": ["a red circle", "a blue square"],
        "pipeline": StableDiffusionPipeline.from_pretrained(
            "data/world/diffusion", safety_checker=None, torch_dtype=torch.float32
        ),
    }


@pytest.mark.parametrize("page", with_code(), ids=lambda page: page.name)
def test_blocks_of_a_page_run(page: Path, names: dict[str, Any]) -> None:
    for block in blocks(page.read_text(encoding="utf-8")):
        for there, here in HERE.items():
            block = block.replace(there, here)
        exec(compile(block, page.name, "exec"), names)


def test_the_block_of_a_model_card_runs(names: dict[str, Any]) -> None:
    settings = finished_run.make_settings()
    for lora in (None, layout.LORA):
        text = model_card.render(settings, None, pipeline="StableDiffusionPipeline", lora=lora)
        (block,) = blocks(text)
        exec(compile(block.replace("FOLDER OR REPOSITORY", "models/tuned"), "card", "exec"), names)
        assert names["image"].size == (64, 64)


def test_the_block_of_a_dataset_card_runs(names: dict[str, Any]) -> None:
    template = (ROOT / "pipeline/templates/dataset_card.md.j2").read_text(encoding="utf-8")
    (block,) = blocks(template)
    exec(compile(block.replace("FOLDER OR REPOSITORY", "data/scored"), "card", "exec"), names)
    assert len(names["rows"]) == 2
