"""The files of a finished run on scenes of the embedded world, for tests of what comes after.

Pictures are drawn, not sampled, and scores follow from how well a picture was drawn, so the
report has something to show in a second and without a model.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from tests.settings import changed
from tests.trainer.miniature import OBJECTIVES
from tgo.data.world.render import draw
from tgo.data.world.scene import Scene, caption, confuse, draw_scene
from tgo.pipeline import layout
from tgo.pipeline.config.settings import Settings
from tgo.pipeline.evaluation import evaluate, paired_images, pairs_table, people
from tgo.pipeline.labelling import label
from tgo.pipeline.storage import shards
from tgo.pipeline.storage.atomic import write_json

REWARDS = ("pickscore", "hpsv2", "imagereward", "clip", "aesthetic")
SCALES = {
    "pickscore": (21.0, 1.1),
    "hpsv2": (0.26, 0.02),
    "imagereward": (0.1, 0.9),
    "clip": (0.26, 0.03),
    "aesthetic": (5.4, 0.5),
}
UNITS = {
    "pickscore": "logit scale x cosine",
    "hpsv2": "cosine",
    "imagereward": "standardised reward",
    "clip": "cosine",
    "aesthetic": "rating 1 to 10",
}
SHA = "0123456789abcdef" * 4
TUNED_SHA = SHA[::-1]


def make_settings(**changes: dict[str, Any]) -> Settings:
    """Settings of a small run; every keyword replaces keys of its group."""
    groups: dict[str, Any] = {
        "seed": 0,
        "threads": 1,
        "device": "cpu",
        "prompts": {
            "train": "data/prompts/train.jsonl",
            "validation": "data/prompts/validation.jsonl",
            "tests": {
                name: f"data/prompts/test_{name}.jsonl" for name in ("seen", "unseen", "hard")
            },
        },
        "generator": {
            "family": "diffusion",
            "model": "data/world/diffusion",
            "steps": 16,
            "guidance_scale": 2.0,
            "dtype": "float32",
        },
        "rewards": {name: f"data/world/rewards/{name}" for name in REWARDS},
        "score": {
            "prompts": 24,
            "images_per_prompt": 4,
            "batch_size": 8,
            "rows_per_shard": 32,
            "compile": False,
        },
        "label": {"reward": "pickscore"},
        "train": {
            "objective": "tgo",
            "objectives": OBJECTIVES,
            "beta": 1.0,
            "auto_beta": {"factor": 0.2, "rate": 0.05, "start": 1.0},
            "reference": "initial",
            "temperature": 1e-3,
            "learning_rate": 1e-4,
            "batch_size": 64,
            "steps": 300,
            "ema_decay": 0.98,
            "weight_decay": 0.0,
            "max_grad_norm": 1.0,
            "prompt_dropout": 0.0,
            "collapse": {
                "likelihood_fall": 0.2,
                "accuracy": 0.3,
                "held_out_rise": 0.1,
                "patience": 3,
            },
            "workers": 0,
            "checkpoint_every": 50,
            "log_every": 10,
            "seed": 0,
        },
        "evaluate": {"prompts": 6, "images_per_prompt": 2, "judge": "tgo.data.world.truth:judge"},
        "report": {"gallery": 6},
    }
    for group, values in changes.items():
        groups[group] = {**groups[group], **values}
    return changed(groups)


def write_run(chosen: Settings, seed: int = 0, gain: float = 0.35) -> None:
    """Write into the working directory what score, label, train and evaluate would have left.

    Tuned pictures are right and clean more often than base pictures, by ``gain``.
    """
    rng = np.random.default_rng(seed)
    scenes = [draw_scene(rng) for _ in range(chosen.score.prompts)]
    write_scored(layout.SCORED, scenes, rng, 0.5, chosen.score.images_per_prompt, rows_per_shard=32)
    label.label_folder(layout.SCORED, layout.LABELLED, chosen.label, seed=chosen.seed)
    _write_log(rng)
    for name in chosen.prompts.tests:
        scenes = [
            draw_scene(rng, unseen=name == "unseen", relation=True if name == "hard" else None)
            for _ in range(chosen.evaluate.prompts)
        ]
        skill = {"seen": 0.55, "unseen": 0.45, "hard": 0.25}[name]
        for model, right in (("base", skill), ("tuned", skill + gain)):
            write_scored(
                evaluate.folder("tests", model, name),
                scenes,
                rng,
                right,
                chosen.evaluate.images_per_prompt,
                model=SHA if model == "base" else TUNED_SHA,
            )
    write_evaluation(chosen)


def write_scored(
    folder: Path,
    scenes: list[Scene],
    rng: np.random.Generator,
    right: float,
    images_per_prompt: int,
    rows_per_shard: int = 1000,
    prompts: list[str] | None = None,
    model: str = SHA,
) -> dict[str, np.ndarray]:
    """Write shards in which a share ``right`` of pictures match their prompt; return scores."""
    asked = [scene for scene in scenes for _ in range(images_per_prompt)]
    keeps = rng.random(len(asked)) < right
    shown = [
        scene if kept else confuse(rng, scene) for scene, kept in zip(asked, keeps, strict=True)
    ]
    quality = rng.beta(2 + 4 * right, 2, (len(asked), 4)).astype(np.float32)
    pictures = draw(rng, shown, quality)
    worth = 1.2 * (keeps - 0.5) + 2 * (quality.mean(axis=1) - 0.6)
    scores = {
        name: (mean + spread * (worth + rng.normal(0, 0.6, len(asked)))).astype(np.float32)
        for name, (mean, spread) in SCALES.items()
    }
    captions = prompts or [caption(scene) for scene in scenes]
    rows = {
        "id": [f"{i:04d}-{r:03d}" for i in range(len(scenes)) for r in range(images_per_prompt)],
        "prompt": [text for text in captions for _ in range(images_per_prompt)],
        "prompt_id": [f"{i:04d}" for i in range(len(scenes)) for _ in range(images_per_prompt)],
        "domain": ["related" if scene.relation else "plain" for scene in asked],
        "replicate": [r for _ in scenes for r in range(images_per_prompt)],
        "seed": [7_000_000_000 + i for i in range(len(asked))],
        "status": ["ok"] * len(asked),
        "error": [None] * len(asked),
        "image": [{"bytes": png(picture), "path": None} for picture in pictures],
        "latents": list(np.zeros((len(asked), 4), np.float16)),
        **scores,
    }
    write_rows(folder, rows, rows_per_shard, model)
    return scores


def write_rows(
    folder: Path, rows: dict[str, Any], rows_per_shard: int = 1000, model: str = SHA
) -> None:
    """Scored shards of given columns, as if made by the model of that checksum."""
    rewards = [name for name in REWARDS if name in rows]
    metadata = {
        "tgo.latents": {"shape": [4], "dtype": "float16"},
        "tgo.rewards": {name: _model(name) for name in rewards},
        "tgo.fingerprint": {"images": {"generator": {"model_sha256": model}}},
    }
    table = pa.table(rows, schema=shards.scored_schema(rewards, [4], metadata))
    count = -(-len(table) // rows_per_shard)
    for index in range(count):
        part = table.slice(index * rows_per_shard, rows_per_shard)
        shards.write_shard(folder / shards.shard_name(index, count), part)


def png(pixels: np.ndarray) -> bytes:
    """An image uint8 [H, W, 3] as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _model(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "version": f"world-{name}",
        "unit": UNITS[name],
        "checkpoint_sha256": SHA,
        "dtype": "float32",
    }


def _write_log(rng: np.random.Generator) -> None:
    layout.TRAIN_LOG.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for step in range(10, 310, 10):
        learnt = 1 - np.exp(-step / 120)
        noise = rng.normal(0, 0.03, 6)
        lines.append(
            {
                "step": step,
                "samples_seen": step * 64,
                "loss": 3.6 * (0.6931 - 0.09 * learnt) + noise[0],
                "grad_norm": 2.1 - 1.1 * learnt + 4 * noise[1],
                "margin": 0.55 * learnt + noise[2],
                "accuracy": 0.5 + 0.17 * learnt + noise[3] / 4,
                "log_ratio_positive": 0.2 * learnt + noise[4],
                "log_ratio_negative": -0.35 * learnt + noise[5],
                "grad_factor": 0.5 - 0.08 * learnt,
                "saturation": 0.02 * learnt,
                "likelihood_change": 0.001 * learnt,
                "kl": 0.05 * learnt,
            }
        )
    text = "".join(json.dumps(line) + "\n" for line in lines)
    layout.TRAIN_LOG.write_text(text)


def bright_judge(images: np.ndarray, prompts: list[str]) -> list[Any]:
    """A judge for pictures of any size: right if brighter than grey."""
    return [SimpleNamespace(all_right=bool(i.mean() > 127), share=i.mean() / 255) for i in images]


def write_evaluation(chosen: Settings) -> None:
    """What the stage evaluate writes beside the shards, by its own arithmetic."""
    judge = evaluate.load_judge(chosen.evaluate.judge) if chosen.evaluate.judge else None
    pairs = {
        name: paired_images.read_pairs(
            evaluate.folder("tests", "base", name),
            evaluate.folder("tests", "tuned", name),
            list(chosen.rewards),
            judge,
        )
        for name in chosen.prompts.tests
    }
    facts = {
        "family": "diffusion",
        "sampler": "DDIMScheduler",
        "steps": 16,
        "guidance_scale": 2.0,
        "dtype": "float32",
        "images_per_prompt": chosen.evaluate.images_per_prompt,
        "base": chosen.generator.model,
        "base_sha256": SHA,
        "tuned": "models/tuned",
        "tuned_sha256": TUNED_SHA,
        "seed": chosen.seed,
    }
    metrics = evaluate.summarise(chosen, pairs, facts)
    metrics["generator"]["people"] = people.read(layout.COMPARED, facts)
    pairs_table.write(layout.PAIRS, pairs, metrics["generator"])
    write_json(layout.EVALUATION, metrics)
