"""Comparing a tuned model with its base: arithmetic on hand-made shards, stages on tiny models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests import adapters
from tests.models import write_random_diffusion
from tests.pipeline import finished_run
from tests.rewards.miniatures import write_random_panel
from tgo.pipeline import layout
from tgo.pipeline.config.settings import Settings
from tgo.pipeline.errors import InputError
from tgo.pipeline.evaluation import evaluate, paired_images, pairs_table
from tgo.pipeline.generators import load_generator, model_sha256
from tgo.pipeline.seeds import evaluation_seed, sample_seed
from tgo.pipeline.storage import shards

JUDGE = "tests.pipeline.finished_run:bright_judge"


def write_folder(folder: Path, scores: list[float | None], **changes: list[Any]) -> None:
    """Two images a prompt with given clip scores (None: the image failed).

    Image i is all bright if its score is above 0.
    """
    count = len(scores)
    pictures = [np.full((4, 4, 3), 255 if score and score > 0 else 0, np.uint8) for score in scores]
    rows = {
        "id": [f"p{i // 2}-{i % 2:03d}" for i in range(count)],
        "prompt": [f"prompt {i // 2}" for i in range(count)],
        "prompt_id": [f"p{i // 2}" for i in range(count)],
        "domain": ["all"] * count,
        "replicate": [i % 2 for i in range(count)],
        "seed": list(range(count)),
        "status": ["failed" if score is None else "ok" for score in scores],
        "error": [""] * count,
        "image": [{"bytes": finished_run.png(picture), "path": None} for picture in pictures],
        "latents": list(np.zeros((count, 4), np.float16)),
        "clip": scores,
    }
    finished_run.write_rows(folder, rows | changes, rows_per_shard=4)


def test_means_differences_and_win_rate_by_hand(tmp_path: Path) -> None:
    write_folder(tmp_path / "base", [1.0, 2.0, -1.0, 0.0])
    write_folder(tmp_path / "tuned", [2.0, 2.0, 1.0, -1.0])
    judge = finished_run.bright_judge
    metrics, counts = evaluate.compare_folders(
        tmp_path / "base", tmp_path / "tuned", ["clip"], judge, seed=0
    )
    clip = metrics["clip"]
    assert (clip["base"], clip["tuned"], clip["difference"]) == (0.5, 1.0, 0.5)
    # prompt 0: a win and a tie, prompt 1: a win and a loss
    assert (clip["win_rate"], clip["win_low"], clip["win_high"]) == (0.625, 0.5, 0.75)
    assert clip["low"] == 0.5
    assert clip["high"] == 0.5
    assert metrics["truth"]["better"] == 1
    assert metrics["truth"]["worse"] == 0
    assert metrics["truth"]["equal"] == 3
    assert clip["prefers_worse"] == 0.0
    assert metrics["gold"]["base"] == 0.5
    assert metrics["gold"]["tuned"] == 0.75
    assert counts == {"prompts": 2, "images": 4, "excluded": 0}


def test_a_pair_with_a_failed_image_is_left_out_and_counted(tmp_path: Path) -> None:
    write_folder(tmp_path / "base", [1.0, None, 3.0, 4.0, None, 1.0])
    write_folder(tmp_path / "tuned", [2.0, 9.0, None, 4.5, 1.0, None])
    metrics, counts = evaluate.compare_folders(
        tmp_path / "base", tmp_path / "tuned", ["clip"], None, seed=0
    )
    assert counts == {"prompts": 2, "images": 2, "excluded": 4}
    assert metrics["clip"]["difference"] == 0.75
    assert "gold" not in metrics


def test_folders_of_other_seeds_are_not_compared(tmp_path: Path) -> None:
    write_folder(tmp_path / "base", [1.0, 2.0])
    write_folder(tmp_path / "tuned", [1.0, 2.0], seed=[0, 5])
    with pytest.raises(InputError, match="not the same prompts and seeds"):
        paired_images.read_pairs(tmp_path / "base", tmp_path / "tuned", ["clip"])


def test_nothing_left_to_compare(tmp_path: Path) -> None:
    write_folder(tmp_path / "base", [None, None])
    write_folder(tmp_path / "tuned", [1.0, 2.0])
    with pytest.raises(InputError, match="no image pair succeeded"):
        paired_images.read_pairs(tmp_path / "base", tmp_path / "tuned", ["clip"])


def test_only_the_wanted_images_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "base", [1.0] * 12)
    read: list[tuple[str, tuple[str, ...]]] = []
    original = shards.read_shard

    def spy(path: Path, columns: list[str]) -> Any:
        read.append((path.name, tuple(columns)))
        return original(path, columns)

    monkeypatch.setattr(shards, "read_shard", spy)
    assert set(paired_images.read_images(tmp_path / "base", ["p3-001"])) == {"p3-001"}
    assert [name for name, columns in read if "image" in columns] == [shards.shard_name(1, 3)]


def test_judge_that_does_not_know_the_prompts(tmp_path: Path) -> None:
    write_folder(tmp_path / "base", [1.0, 2.0])

    def judge(images: np.ndarray, prompts: list[str]) -> list[SimpleNamespace]:
        raise ValueError("not a caption")

    with pytest.raises(InputError, match=r"not a caption\); set evaluate.judge to null"):
        paired_images.judge_folder(tmp_path / "base", judge, ["p0-000"])


@pytest.mark.parametrize("dotted", ["no.such:judge", "tgo.pipeline.evaluation.stats:no_such_judge"])
def test_judge_that_cannot_be_imported(dotted: str) -> None:
    with pytest.raises(InputError, match=r"evaluate\.judge = .* cannot be imported"):
        evaluate.load_judge(dotted)


def test_table_on_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path / "base", [1.0, 2.0])
    write_folder(tmp_path / "tuned", [2.0, 3.0])
    metrics, _ = evaluate.compare_folders(
        tmp_path / "base", tmp_path / "tuned", ["clip"], finished_run.bright_judge, seed=0
    )
    evaluate.print_table({"seen": metrics, "generator": {}})
    shown = capsys.readouterr().out
    assert "100.0%" in shown
    assert "+1.0000" in shown
    assert "gold" in shown


# --- with random models of the real classes ---


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A base model, a copy of it with a disturbed network, and two reward models."""
    root = tmp_path_factory.mktemp("models")
    base = write_random_diffusion(root / "base")
    rewards = write_random_panel(root / "rewards")
    return SimpleNamespace(
        root=root, base=base, rewards={name: rewards[name] for name in ("clip", "aesthetic")}
    )


def disturb(chosen: Settings, folder: Path, amount: float) -> Path:
    family = load_generator(chosen.generator)
    with torch.no_grad():
        for parameter in family.network.parameters():
            parameter.mul_(1 + amount)
    family.save(family.network, folder)
    return folder


@pytest.fixture
def chosen(models: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(tmp_path)
    for name in ("test_seen", "test_hard", "validation"):
        lines = [json.dumps({"prompt": f"a red circle {name} {i}"}) + "\n" for i in range(4)]
        path = Path(f"data/prompts/{name}.jsonl")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(lines))
    base = finished_run.make_settings()
    return Settings.model_validate(
        base.model_dump()
        | {
            "prompts": base.prompts.model_dump()
            | {
                "tests": {
                    name: Path(f"data/prompts/test_{name}.jsonl") for name in ("seen", "hard")
                }
            },
            "generator": base.generator.model_dump()
            | {"model": str(models.base), "steps": 2, "guidance_scale": 1.0},
            "rewards": models.rewards,
            "label": base.label.model_dump() | {"reward": "clip"},
            "evaluate": base.evaluate.model_dump()
            | {"prompts": 3, "images_per_prompt": 2, "judge": JUDGE},
        }
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*.parquet"))}


def test_stage_compares_and_repeats_itself_to_the_byte(chosen: Settings) -> None:
    disturb(chosen, layout.TUNED, 0.1)
    metrics = evaluate.run(chosen)
    assert json.loads(layout.EVALUATION.read_text()) == metrics
    facts, pairs = pairs_table.read(layout.PAIRS)
    assert facts == metrics["generator"]
    assert pairs["hard"].gain("clip").mean() == pytest.approx(
        metrics["hard"]["clip"]["difference"], abs=2e-6
    )
    few = json.loads(layout.METRICS.read_text())
    assert few["seen"]["won"] == pytest.approx(metrics["seen"]["clip"]["win_rate"], abs=1e-4)
    assert sum(map(len, few.values())) <= 12
    assert set(metrics) == {"seen", "hard", "generator"}
    assert set(metrics["seen"]) == {"clip", "aesthetic", "gold", "truth"}
    row = metrics["seen"]["clip"]
    assert row["low"] <= row["difference"] <= row["high"]
    assert row["difference"] == pytest.approx(row["tuned"] - row["base"], abs=2e-6)
    facts = metrics["generator"]
    assert facts["sampler"] == "DDIMScheduler"
    assert facts["steps"] == 2
    assert facts["base_sha256"] != facts["tuned_sha256"]
    assert facts["sets"]["hard"] == {"prompts": 3, "images": 6, "excluded": 0}
    before, text = contents(layout.EVALUATED), layout.EVALUATION.read_bytes()
    evaluate.run(chosen)
    assert contents(layout.EVALUATED) == before
    assert layout.EVALUATION.read_bytes() == text


def test_adapters_are_compared_as_the_whole_model_is(chosen: Settings) -> None:
    folder = adapters.write(load_generator(chosen.generator), layout.TUNED)
    found = evaluate.run(chosen)
    assert found["generator"]["tuned_sha256"] == model_sha256(chosen.generator, folder)
    assert found["generator"]["tuned_sha256"] != found["generator"]["base_sha256"]
    whole = load_generator(chosen.generator, layout.TUNED)
    shutil.rmtree(layout.TUNED)
    whole.save(whole.network, layout.TUNED)
    again = evaluate.run(chosen)
    assert [again[name] for name in ("seen", "hard")] == [found[name] for name in ("seen", "hard")]
    assert found["seen"]["clip"]["difference"] != 0


def test_without_any_reward_model_the_judge_compares(chosen: Settings) -> None:
    disturb(chosen, layout.TUNED, 0.1)
    label = chosen.label.model_copy(update={"reward": {"rating": 1.0}})
    metrics = evaluate.run(chosen.model_copy(update={"rewards": {}, "label": label}))
    assert set(metrics["seen"]) == {"truth", "gold"}
    assert set(json.loads(layout.METRICS.read_text())["seen"]) == {"truth"}
    alone = chosen.evaluate.model_copy(update={"judge": None})
    update = {"rewards": {}, "label": label, "evaluate": alone}
    metrics = evaluate.run(chosen.model_copy(update=update))
    assert metrics["seen"] == {}
    assert metrics["generator"]["sets"]["seen"]["images"] == 6


def test_base_and_tuned_share_seeds_that_training_never_used(chosen: Settings) -> None:
    evaluate.compare(chosen, disturb(chosen, Path("tuned"), 0.1))
    seeds = {}
    for name in ("base", "tuned"):
        folder = evaluate.folder("tests", name, "seen")
        rows = [r for p in shards.shard_paths(folder) for r in shards.read_shard(p).to_pylist()]
        seeds[name] = {row["id"]: row["seed"] for row in rows}
        for row in rows:
            assert row["seed"] == sample_seed(
                evaluation_seed(chosen.seed), row["prompt_id"], row["replicate"]
            )
            assert row["seed"] != sample_seed(chosen.seed, row["prompt_id"], row["replicate"])
    assert seeds["base"] == seeds["tuned"]


def test_an_unchanged_model_draws_with_its_base(chosen: Settings, models: SimpleNamespace) -> None:
    metrics = evaluate.compare(chosen, models.base, "unchanged")
    row = metrics["seen"]["clip"]
    assert (row["difference"], row["low"], row["high"], row["win_rate"]) == (0, 0, 0, 0.5)
    assert metrics["seen"]["gold"]["difference"] == 0


def test_base_images_are_made_once_for_all_tuned_models(chosen: Settings) -> None:
    evaluate.compare(chosen, disturb(chosen, Path("one"), 0.1), "one")
    base = evaluate.folder("tests", "base", "seen")
    made = {path: path.stat().st_mtime_ns for path in base.glob("*.parquet")}
    assert made
    assert sorted(path.name for path in layout.EVALUATED.glob("[!.]*")) == [
        "base",
        evaluate.EMBEDDINGS,
    ]
    one = contents(evaluate.folder("tests", "one", "seen"))
    evaluate.compare(chosen, disturb(chosen, Path("two"), 0.3), "two")
    assert {path: path.stat().st_mtime_ns for path in base.glob("*.parquet")} == made
    # images of other weights under the same name are made anew
    evaluate.compare(chosen, Path("two"), "one")
    assert contents(evaluate.folder("tests", "one", "seen")) != one


def test_validation_leaves_the_test_images_alone(chosen: Settings) -> None:
    disturb(chosen, layout.TUNED, 0.1)
    metrics = evaluate.run(chosen, "validation")
    assert set(metrics) == {"validation", "generator"}
    assert set(metrics["validation"]) == {
        "clip",
        "aesthetic",
    }  # the judge is never asked: settings are chosen on these prompts
    assert json.loads(evaluate.VALIDATION_METRICS.read_text()) == metrics
    assert not layout.EVALUATED.exists()
    assert not layout.METRICS.exists()


def test_images_of_a_set_that_is_gone_go_too(chosen: Settings) -> None:
    disturb(chosen, layout.TUNED, 0.1)
    evaluate.run(chosen)
    tests = {"seen": chosen.prompts.tests["seen"]}
    prompts = chosen.prompts.model_copy(update={"tests": tests})
    evaluate.run(chosen.model_copy(update={"prompts": prompts}))
    assert not evaluate.folder("tests", "base", "hard").exists()
    assert not evaluate.folder("tests", "tuned", "hard").exists()
    assert evaluate.folder("tests", "tuned", "seen").exists()


def test_missing_model_is_named_before_anything_is_made(chosen: Settings) -> None:
    with pytest.raises(InputError, match="models/tuned: holds no trained model; run `tgo train`"):
        evaluate.run(chosen)
    assert not layout.EVALUATED.exists()


def test_names_that_are_taken(chosen: Settings, models: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match="'base' is taken"):
        evaluate.compare(chosen, models.base, "base")
    tests = {"generator": chosen.prompts.tests["seen"]}
    prompts = chosen.prompts.model_copy(update={"tests": tests})
    with pytest.raises(InputError, match=r"prompts\.tests\.generator"):
        evaluate.compare(chosen.model_copy(update={"prompts": prompts}), models.base)
