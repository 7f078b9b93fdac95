"""The world's prompt lists: training, validation and three test sets, no caption in two of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tgo.data.world.scene import Scene, caption, draw_scene

SEED = 7

Draw = Callable[[np.random.Generator], Scene]

# name -> (how many, how drawn); settings are chosen on validation, tests are read once
LISTS: dict[str, tuple[int, Draw]] = {
    "test_seen": (256, draw_scene),
    "test_unseen": (256, lambda rng: draw_scene(rng, unseen=True)),
    "test_hard": (256, lambda rng: draw_scene(rng, relation=True, sized=True)),
    "validation": (256, draw_scene),
    "train": (2048, draw_scene),
}


def write_prompts(folder: Path) -> None:
    """Write one JSONL file a list, with `id`, `prompt` and `domain` on each line."""
    folder.mkdir(parents=True, exist_ok=True)
    taken: set[str] = set()
    for index, (name, (count, draw)) in enumerate(LISTS.items()):
        rng = np.random.default_rng([SEED, index])
        lines: list[str] = []
        while len(lines) < count:
            scene = draw(rng)
            prompt = caption(scene)
            if prompt in taken:
                continue
            taken.add(prompt)
            row = {"id": f"{name}-{len(lines):04d}", "prompt": prompt, "domain": scene.domain}
            lines.append(json.dumps(row))
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
