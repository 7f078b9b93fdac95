"""Whether published weights give published numbers: for a machine with the network and a GPU.

    python -m benchmarks.verify_real verified          (or make verify-real; about an hour)

Makes a project in that folder with the preset sd15, fetches Stable Diffusion 1.5, the five
published reward models and two published prompt lists (`tgo fetch`), and prints three verdicts:

    files      every weight file has its published checksum
    parity     our HPSv2 and ImageReward score fixed pictures as the authors' packages do
    base model mean scores of the untuned model's images, against those of the paper

The paper names neither sampler nor guidance nor seeds of its base rows, so a row agrees where its
95 % interval over prompts comes closer to the published mean than half of what the paper gains over
it. Prompts are taken evenly from each list. Run again, it goes on; the exit status is 1 where
something differs. Figures go to verified/verified.json.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.score import pictures
from tgo.pipeline import layout
from tgo.pipeline.config import settings as params
from tgo.pipeline.config.settings import Settings
from tgo.pipeline.errors import InputError
from tgo.pipeline.evaluation import stats
from tgo.pipeline.scoring import local_engine
from tgo.pipeline.seeds import evaluation_seed
from tgo.pipeline.sources import prompts
from tgo.pipeline.sources.prompts import Prompt
from tgo.pipeline.storage import shards
from tgo.pipeline.storage.atomic import write_json
from tgo.pipeline.tools import fetch, init_project, preset
from tgo.rewards import official, registry
from tgo.rewards.base import Batch
from tgo.rewards.checkpoint import UNPUBLISHED
from tgo.rewards.errors import RewardError
from tgo.rewards.pictures import decode

PRESET = "sd15"
PACKAGES = ("hpsv2", "imagereward")
PARITY = 1e-3
"""Largest difference of a score from the authors' package, both in float32 on one device."""
SIDE, PICTURES = 512, 8


class Published(NamedTuple):
    """A mean score of the paper's base model on a prompt list, and what TGO gains over it."""

    prompts: str
    reward: str
    base: float
    tuned: float
    model: str = "SD 1.5"


PUBLISHED = (  # arXiv:2605.04653: SD 1.5 on Pick-a-Pic v2, SD 1.4 with 10,000 scored prompts
    Published("parti", "pickscore", 21.15, 21.55),
    Published("hpsv2", "imagereward", 0.1384, 0.7595),
    Published("hpsv2", "aesthetic", 5.29, 5.53),
    Published("hpsv2", "hpsv2", 0.2454, 0.2618, "SD 1.4"),
)


def project(folder: Path, changes: Sequence[str]) -> Settings:
    """The folder as the working directory, a project of the preset; its settings."""
    if not (folder / layout.PARAMS).exists():
        init_project.create(folder, world=False)
    os.chdir(folder)
    preset.apply(PRESET, layout.PRESETS, layout.PARAMS, gpus=1)
    return params.load(layout.PARAMS, changes)


def bring(settings: Settings) -> None:
    """Fetch what is not here."""
    found, lost = fetch.missing(settings)
    for line in [*(item.line for item in found), *lost]:
        print(line, flush=True)
    fetch.fetch(found)


def parity(settings: Settings, device: str) -> Iterator[dict[str, Any]]:
    """Our scores of fixed pictures against those of the authors' packages."""
    texts = [f"a photograph of {count} red boats on a lake" for count in range(PICTURES)]
    batch = Batch([decode(image) for image in pictures(PICTURES, SIDE)], texts)
    for name in PACKAGES:
        source = settings.rewards[name].source
        ours = registry.load(name, source, device=device, dtype=torch.float32).score(batch)
        theirs = official.load(name, source, device=device).score(batch)
        largest = float((ours.cpu().double() - theirs.cpu().double()).abs().max())
        yield {"reward": name, "largest difference": largest, "agrees": largest <= PARITY}


def spread(every: Sequence[Prompt], count: int) -> list[Prompt]:
    """So many of a list, evenly over it: published lists are sorted by style or category."""
    count = min(count, len(every))
    return [every[at * len(every) // count] for at in range(count)]


def images(settings: Settings) -> Iterator[tuple[str, Path]]:
    """Images of the base model for each published list, with all scores; goes on when run again."""
    family, panel = local_engine.load_models(settings)
    for name in sorted({row.prompts for row in PUBLISHED}):
        every = prompts.check(settings.prompts.tests[name]).prompts
        folder = layout.EVALUATED / "base" / name
        summary = local_engine.score_prompts(
            family,
            panel,
            spread(every, settings.evaluate.prompts),
            folder,
            embeddings_folder=layout.EVALUATED / "prompt_embeddings" / name,
            seed=evaluation_seed(settings.seed),
            images_per_prompt=settings.evaluate.images_per_prompt,
            batch_size=settings.score.batch_size,
            rows_per_shard=settings.score.rows_per_shard,
            compiled=settings.generator.compile,
        )
        print(f"{folder}: {summary}", flush=True)
        yield name, folder


def files(folder: Path) -> Iterator[dict[str, Any]]:
    """Which published version each reward model's weights are."""
    models = shards.read_metadata(shards.shard_paths(folder)[0])["tgo.rewards"]
    for name, model in models.items():
        version = model["version"]
        yield {"reward": name, "version": version, "agrees": version != UNPUBLISHED}


def rows(name: str, folder: Path) -> Iterator[dict[str, Any]]:
    """The published figures of a list beside ours."""
    for published in PUBLISHED:
        if published.prompts != name:
            continue
        scores, ids = [], []
        for path in shards.shard_paths(folder):
            table = shards.read_shard(path, ["prompt_id", published.reward])
            scores.append(table[published.reward].to_numpy())
            ids += table["prompt_id"].to_pylist()
        means = stats.mean_by_prompt(np.concatenate(scores), ids)
        found = stats.bootstrap_mean(means)
        room = (published.tuned - published.base) / 2
        near = found.low - room <= published.base <= found.high + room
        yield published._asdict() | found._asdict() | {"within": room, "agrees": near}


def verify(settings: Settings) -> dict[str, list[dict[str, Any]]]:
    """All three verdicts, printed as they come."""
    bring(settings)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found: dict[str, list[dict[str, Any]]] = {"parity": told("parity", parity(settings, device))}
    found |= {"files": [], "base model": []}
    for name, folder in images(settings):
        found["files"] = found["files"] or told("files", files(folder))
        found["base model"] += told("base model", rows(name, folder))
    return found


def told(subject: str, lines: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """Print each line with its verdict."""
    found = []
    for line in lines:
        verdict = "agrees" if line["agrees"] else "DIFFERS"
        facts = ", ".join(
            f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
            for key, value in line.items()
            if key != "agrees"
        )
        print(f"{verdict:<8} {subject}: {facts}", flush=True)
        found.append(line)
    return found


def main() -> None:
    """The command line; see the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="changes")
    options = parser.parse_args()
    try:
        found = verify(project(options.folder, options.changes))
    except (InputError, RewardError) as error:
        print(f"verify_real: error: {error}", file=sys.stderr)
        sys.exit(2)
    write_json(Path("verified.json"), found)
    wrong = sum(not line["agrees"] for lines in found.values() for line in lines)
    print(f"{wrong} of {sum(map(len, found.values()))} differ" if wrong else "everything agrees")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
