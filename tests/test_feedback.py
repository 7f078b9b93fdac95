"""The recipes of docs/feedback.md, command by command, on a miniature model."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from diffusers import StableDiffusionPipeline
from PIL import Image
from typer.testing import CliRunner

from tests import workspace
from tests.workspace import ROOT
from tgo.pipeline.cli import app
from tgo.pipeline.storage import shards

pytestmark = pytest.mark.slow
PICTURES, PROMPTS, RATERS = 24, 6, 3
PAGE = (ROOT / "docs/feedback.md").read_text(encoding="utf-8")
LORA = {"lora": {"rank": 2, "alpha": 2, "targets": None}, "samples": None}


def commands(heading: str) -> Iterator[list[str]]:
    """The `tgo` commands of a section's shell block, each as its words."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    (block,) = re.findall(r"^```sh\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    for line in block.splitlines():
        for command in " ".join(shlex.split(line, comments=True)).split(" && "):
            tgo, *words = command.split()
            assert tgo == "tgo"
            yield words


def run(words: list[str]) -> str:
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 0, f"tgo {' '.join(words)}: {found.output}\n{found.exception!r}"
    return found.output


@pytest.fixture
def project(tiny_generator: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Settings for ratings, prompts, and pictures whose red is what raters like."""
    workspace.fill(tmp_path, tiny_generator, {})
    workspace.change(tmp_path, {"label": {"reward": "rating"}, "train": LORA})
    (tmp_path / "pictures").mkdir()
    for number in range(PICTURES):
        Image.new("RGB", (32, 32), (10 * number, 40, 90)).save(
            tmp_path / f"pictures/{number:02d}.png"
        )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def felt(number: int, rater: int, rng: np.random.Generator) -> float:
    """What a rater feels of a picture: its red, and how strict the rater is."""
    return number / PICTURES + 0.3 * rater - 0.3 + 0.1 * rng.normal()


def prompt(number: int) -> str:
    return f"a red circle {number % PROMPTS}"


def check_loads(project: Path, folder: str, base: Path) -> None:
    """Stock diffusers loads the exported adapters onto the base model."""
    pipeline = StableDiffusionPipeline.from_pretrained(base, safety_checker=None)
    pipeline.load_lora_weights(project / folder)
    assert pipeline.get_active_adapters()


def test_stars_in_a_spreadsheet(project: Path, tiny_generator: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [
        f"{n:02d}.png,{prompt(n)},rater {who},{np.clip(round(1 + 4 * felt(n, who, rng)), 1, 5)}"
        for n in range(PICTURES)
        for who in range(RATERS)
    ]
    (project / "stars.csv").write_text("\n".join(["file_name,prompt,rater,stars", *rows]))
    told = [run(words) for words in commands("Stars in a spreadsheet")]
    assert "24 images of 6 prompts, 72 ratings (stars)" in told[0]
    record = json.loads((project / "data/labelled/threshold.json").read_text())
    assert record["rewards"]["rating"]["raters"] == RATERS
    assert record["rewards"]["rating"]["alpha"] > 0.3
    check_loads(project, "models/stars-lora", tiny_generator)
    card = (project / "models/stars-lora/README.md").read_text()
    assert "agreement of raters (Krippendorff's alpha)" in card


def test_comparisons_from_label_studio(project: Path, tiny_generator: Path) -> None:
    rng = np.random.default_rng(0)
    tasks = []
    for n in range(PICTURES):
        other = (n + PROMPTS) % PICTURES  # of the same prompt
        answers = [
            {
                "completed_by": who,
                "result": [
                    {
                        "type": "pairwise",
                        "value": {
                            "selected": "left"
                            if felt(n, who, rng) > felt(other, who, rng)
                            else "right"
                        },
                    }
                ],
            }
            for who in range(RATERS)
        ]
        data = {
            "prompt": prompt(n),
            "image_a": f"/data/local-files/?d={n:02d}.png",
            "image_b": f"/data/local-files/?d={other:02d}.png",
        }
        tasks.append({"id": n, "data": data, "annotations": answers})
    (project / "export.json").write_text(json.dumps(tasks))
    for words in commands("Comparisons from Label Studio"):
        run(words)
    table = shards.read_shard(
        shards.shard_paths(project / "data/scored")[0], ["id", "rating", "prompt"]
    )
    by_prompt: dict[str, list[tuple[str, float]]] = {}
    for row in table.to_pylist():
        by_prompt.setdefault(row["prompt"], []).append((row["id"], row["rating"]))
    for rated in by_prompt.values():
        strengths = [strength for _, strength in sorted(rated)]
        assert strengths[-1] > strengths[0]
        assert np.mean(strengths) == pytest.approx(0, abs=1e-5)
    check_loads(project, "models/pairs-lora", tiny_generator)


def test_clicks_from_a_web_log(project: Path) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for n in range(PICTURES):
        views = int(rng.integers(1, 400))
        clicks = rng.binomial(views, 0.05 + 0.3 * n / PICTURES)
        rows.append(f"{n:02d}.png,{prompt(n)},{clicks},{views}")
    (project / "clicks.csv").write_text("\n".join(["file_name,prompt,clicks,views", *rows]))
    for words in commands("Clicks from a web log"):
        run(words)
    labelled = shards.shard_paths(project / "data/labelled")
    scored = shards.shard_paths(project / "data/scored")
    weights = np.concatenate([shards.read_shard(p, ["weight"])["weight"] for p in labelled])
    shown = np.concatenate([shards.read_shard(p, ["n_ratings"])["n_ratings"] for p in scored])
    assert weights.min() >= 0.5
    assert weights[shown > 200].mean() > weights[shown < 40].mean()
    changes = ["label.weights=noise", "label.confidence=null", "label.error=rating_error"]
    run(["train", *(word for change in changes for word in ("--set", change))])
