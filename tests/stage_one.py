"""A small stage one: ten prompts, two images each, shards of six rows, batches of four."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tgo.pipeline.generators.diffusion import Diffusion
from tgo.pipeline.generators.sizes import Resolution
from tgo.pipeline.scoring.local_engine import Summary, score_prompts
from tgo.pipeline.sources.prompts import Prompt

PROMPTS = [Prompt(f"p{number}", f"a red circle {number}", "all") for number in range(10)]
SIZES = {"seed": 0, "images_per_prompt": 2, "batch_size": 4, "rows_per_shard": 6}


def load_family(folder: Path, steps: int = 2, resolution: Resolution = None) -> Diffusion:
    return Diffusion.load(
        str(folder),
        steps=steps,
        guidance_scale=2.0,
        dtype="float32",
        device="cpu",
        resolution=resolution,
    )


def score_into(
    root: Path, family: Any, panel: Any, chosen: list[Prompt] = PROMPTS, **changes: Any
) -> Summary:
    """Run stage one in `root`/scored and `root`/embeddings."""
    return score_prompts(
        family,
        panel,
        chosen,
        root / "scored",
        embeddings_folder=root / "embeddings",
        **{**SIZES, **changes},
    )


def contents(root: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes, locks apart."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }
