"""The prompt lists: as committed, and no caption in two of them."""

from __future__ import annotations

import json
from pathlib import Path

from tgo.data.world.prompts import LISTS, write_prompts
from tgo.data.world.scene import UNSEEN, parse

COMMITTED = Path(__file__).parents[2] / "data" / "prompts"


def test_committed_lists_are_what_the_code_writes(tmp_path: Path) -> None:
    write_prompts(tmp_path)
    for name in LISTS:
        assert (tmp_path / f"{name}.jsonl").read_bytes() == (
            COMMITTED / f"{name}.jsonl"
        ).read_bytes()


def test_lists_are_disjoint_and_unseen_is_unseen() -> None:
    rows = {
        name: [json.loads(line) for line in (COMMITTED / f"{name}.jsonl").read_text().splitlines()]
        for name in LISTS
    }
    prompts = [row["prompt"] for part in rows.values() for row in part]
    assert len(prompts) == len(set(prompts))
    for name, part in rows.items():
        for row in part:
            first = parse(row["prompt"]).things[0]
            assert ((first.shape, first.colour) in UNSEEN) == (name == "test_unseen")
