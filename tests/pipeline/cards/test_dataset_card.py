"""The folder as a dataset: its card, and that `load_dataset` opens it with the card there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.stage_one import contents, score_into
from tgo.pipeline.cards import dataset_card
from tgo.pipeline.storage import manifest


@pytest.fixture(scope="module")
def scored(tiny_family: Any, tiny_panel: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("card")
    score_into(root, tiny_family, tiny_panel)
    return root / "scored"


def test_the_card_says_what_the_shards_hold(scored: Path) -> None:
    from huggingface_hub import DatasetCard

    path = dataset_card.write(scored)
    found = DatasetCard.load(path)
    assert found.data.to_dict() == {
        "pretty_name": "Scored images",
        "task_categories": ["text-to-image"],
        "size_categories": "n<1K",
        "tags": ["preference", "scalar-feedback", "tgo"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": "train", "path": "shard-*.parquet"}],
            }
        ],
    }
    assert "# 20 generated and scored images" in found.text
    assert "float16, shape 4 x 8 x 8" in found.text
    assert "| `clip` | cosine" in found.text
    assert "| guidance_scale | 2.0 |" in found.text
    assert "> **Stand-ins, not the published reward models**: " in found.text


def test_it_is_written_once_and_the_same(scored: Path) -> None:
    before = contents(scored)
    written = dataset_card.write(scored).stat().st_mtime_ns
    (scored / manifest.NAME).unlink()
    assert dataset_card.write(scored).stat().st_mtime_ns == written
    manifest.complete(scored)
    assert contents(scored) == before


def test_a_dataset_opens_beside_its_card(
    scored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets
    from PIL import Image

    dataset_card.write(scored)
    monkeypatch.chdir(tmp_path)
    rows = datasets.load_dataset(str(scored), split="train", cache_dir=str(tmp_path))
    assert len(rows) == 20
    assert isinstance(rows[0]["image"], Image.Image)
    assert rows[0]["prompt"] == "a red circle 0"


@pytest.mark.parametrize(
    ("rows", "category"),
    [(1, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (99_999, "10K<n<100K"),
     (100_000, "100K<n<1M"), (5 * 10**8, "100M<n<1B")],
)  # fmt: skip
def test_size_categories_are_the_hubs(rows: int, category: str) -> None:
    assert dataset_card._size_category(rows) == category
