"""Feedback on prompts of two languages, of which the base model was trained on one.

    python -m benchmarks.two_languages data/two_languages

Half of the training prompts are English captions of the world, half are German ones of the same
kind, whose words the world's models have never read. The reward is PickScore's miniature, which is
told every prompt in English, as a multilingual judge would understand it. Trains once with one
threshold for both languages and once with a threshold each, evaluates both on prompts of both
languages, and prints what changes; the figures are kept in FOLDER/results.json. About half an hour
on one core.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.changes import changed
from tgo.data.world import truth
from tgo.data.world.scene import BACKGROUNDS, COLOURS, SHAPES, UNSEEN, Scene, Thing, caption
from tgo.pipeline import layout
from tgo.pipeline.config import settings as params
from tgo.pipeline.config.settings import Settings
from tgo.pipeline.evaluation import evaluate
from tgo.pipeline.labelling import label
from tgo.pipeline.scoring import score
from tgo.pipeline.storage.atomic import write_json
from tgo.rewards import pickscore
from tgo.rewards.pickscore import PickScore
from tgo.trainer import train

NOUNS = dict(zip(SHAPES, ("kreis", "quadrat", "dreieck", "raute", "kreuz"), strict=True))
ENDINGS = {"circle": "er", "square": "es", "triangle": "es", "diamond": "e", "cross": "es"}
ADJECTIVES = dict(zip(COLOURS, ("rot", "gelb", "gruen", "tuerkis", "blau", "lila"), strict=True))
UNCHANGED = ("tuerkis", "lila")
GROUNDS = dict(zip(BACKGROUNDS, ("weiss", "schwarz", "grau", "rosa"), strict=True))
WORLD = Path("data/world").absolute()
PROMPTS = 80


def german(scene: Scene) -> str:
    """A scene of one thing in German: in single letters it fills the world's 24 tokens."""
    (thing,) = scene.things
    adjective = ADJECTIVES[thing.colour]
    ending = "" if adjective in UNCHANGED else ENDINGS[thing.shape]
    return f"{adjective}{ending} {NOUNS[thing.shape]} auf {GROUNDS[scene.background]}"


SCENES = [
    Scene((Thing(shape, colour),), ground)
    for shape, colour, ground in product(SHAPES, COLOURS, BACKGROUNDS)
    if (shape, colour) not in UNSEEN
]
ENGLISH = {german(scene): caption(scene) for scene in SCENES}


def in_english(prompts: Sequence[str]) -> list[str]:
    """Captions of the world as they are, German ones translated."""
    return [ENGLISH.get(prompt, prompt) for prompt in prompts]


def load(source: str, *, device: str | torch.device, dtype: torch.dtype) -> PickScore:
    """PickScore that is told every prompt in English; a reward model for params.yaml."""
    model = pickscore.load(source, device=device, dtype=dtype)
    return replace(model, encode_prompts=lambda texts: model.encode_prompts(in_english(texts)))


def judge(images: NDArray[np.uint8], prompts: Sequence[str]) -> list[truth.Graded]:
    """The world's judge on prompts of both languages."""
    return truth.judge(images, in_english(prompts))


def write_prompts(folder: Path, english: Path) -> None:
    """Training prompts of both languages, and test sets: German ones trained on and new, English.

    Args:
        folder: where the lists go.
        english: the world's own lists.
    """
    order = np.random.default_rng(0).permutation(len(SCENES))
    captions = [german(SCENES[place]) for place in order]
    lists = {name: _texts(english / f"{name}.jsonl") for name in ("train", "test_seen")}
    german_rows = [("german", text) for text in captions[:PROMPTS]]
    english_rows = [("english", text) for text in lists["train"][:PROMPTS]]
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in {
        "train": [row for pair in zip(german_rows, english_rows, strict=True) for row in pair],
        "german": german_rows[: PROMPTS // 2],
        "german_new": [("german", text) for text in captions[PROMPTS:]],
        "english_new": [("english", text) for text in lists["test_seen"][: PROMPTS // 2]],
    }.items():
        lines = [
            json.dumps({"id": f"{name}-{place:03d}", "prompt": text, "domain": language})
            for place, (language, text) in enumerate(rows)
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _texts(path: Path) -> list[str]:
    return [json.loads(line)["prompt"] for line in path.read_text(encoding="utf-8").splitlines()]


def settings_of(shipped: Settings) -> Settings:
    """The shipped settings with the prompts, the reward and the judge of two languages."""
    reward = {"module": "benchmarks.two_languages", "source": str(WORLD / "rewards/pickscore")}
    tests = {name: f"prompts/{name}.jsonl" for name in ("german", "german_new", "english_new")}
    values = shipped.model_dump() | {"rewards": {"pickscore": reward}, "threads": 1}
    values["prompts"] |= {
        "train": "prompts/train.jsonl",
        "validation": "prompts/english_new.jsonl",
        "tests": tests,
    }
    return changed(
        Settings.model_validate(values),
        {
            "generator.model": str(WORLD / "diffusion"),
            "score.prompts": 2 * PROMPTS,
            "score.images_per_prompt": 12,
            "train.samples": None,
            "train.loggers": [],
            "evaluate.prompts": len(SCENES) - PROMPTS,
            "evaluate.images_per_prompt": 8,
            "evaluate.judge": "benchmarks.two_languages:judge",
        },
    )


def main(folder: Path) -> None:
    """Run both trainings in `folder`; what is done is not done again."""
    shipped = params.load(layout.PARAMS)
    write_prompts(folder / "prompts", Path("data/prompts").absolute())
    os.chdir(folder)
    common = settings_of(shipped)
    score.run(common)
    found: dict[str, Any] = {}
    for scope in ("global", "domain"):
        settings = changed(common, {"label.scope": scope})
        facts = label.run(settings)
        train.run(settings)
        metrics = evaluate.run(settings)
        found[scope] = {
            "positives": {
                name: group["positives_share"] for name, group in facts["groups"].items()
            },
            "metrics": {name: metrics[name] for name in settings.prompts.tests},
        }
        write_json(Path("results.json"), found)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
