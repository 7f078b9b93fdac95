from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.scores import write_scored
from tgo.pipeline import layout
from tgo.pipeline.cli import app
from tgo.pipeline.config import settings
from tgo.pipeline.errors import InputError
from tgo.pipeline.tools import costs, preset, run_plan

ROOT = Path(__file__).parents[3]
PRESETS = sorted(path.stem for path in (ROOT / "presets").glob("*.yaml"))


@pytest.fixture
def params(tmp_path: Path) -> Path:
    return Path(shutil.copy(ROOT / "params.yaml", tmp_path))


def planned(params: Path, name: str, **options: Any) -> dict[str, str]:
    """The plan's lines by their first word."""
    preset.apply(name, ROOT / "presets", params)
    told = [line.partition(" ") for line in run_plan.lines(settings.load(params), **options)]
    return {word: rest.strip() for word, _, rest in told[::-1]}  # the first of two such lines


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_planned_without_network_or_models(
    params: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("the plan reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    plan = planned(params, name)
    assert {"generator", "score", "storage", "together", "launch"} <= plan.keys()
    assert "tgo score" in plan["launch"]


def test_the_command_loads_neither_torch_nor_diffusers(params: Path) -> None:
    code = (
        "import sys; sys.argv = ['tgo', 'plan', '--params', sys.argv[1]]\n"
        "from tgo.pipeline.cli import app\n"
        "try: app()\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        "print({'torch', 'diffusers', 'transformers'} & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(params)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[-1] == "set()"
    assert "2,048 images of 512 prompts in 8 shards of 256 rows" in done.stdout


def test_scripts_read_the_plan_as_json(params: Path) -> None:
    done = CliRunner().invoke(app, ["plan", "--json", "--params", str(params)])
    found = json.loads(done.stdout)
    assert {"generator", "score", "launch"} <= found.keys()
    assert "2,048 images" in found["score"][0]


def test_hours_and_terabytes_follow_from_the_settings(params: Path) -> None:
    found = settings.load(params)
    cost = costs.Cost(forward=0.5, decode=1.0, side=512, latents=100, conditions=1000, png=2.0)
    # 16 steps, twice for guidance; the miniature rewards count nothing
    assert costs.scoring(found, cost) == (2048, 16 * 2 * 0.5 + 1.0)
    assert costs.scoring(found, cost).hours(17.0) == pytest.approx(2048 / 3600)
    assert costs.training(found, cost) == (200 * 64 * 2, 4 * 0.5)  # two corruptions a sample
    assert costs.evaluating(found, cost).images == 2 * 3 * 128 * 2
    assert costs.storage(*costs.stage_one(found), cost) == {
        "images": 2048 * 2.0 * 512**2,
        "latents": 2048 * 100.0,
        "embeddings": 512 * 1000.0,
    }


def test_an_unknown_model_or_gpu_is_named(params: Path) -> None:
    values = settings.load(params).model_dump()
    values["generator"]["model"] = "someone/else"
    other = settings.validate(values, "params.yaml")
    told = "\n".join(run_plan.lines(other))
    assert "generator.model = 'someone/else' is neither here nor among those" in told
    assert "download   generator.model = someone/else" in told
    values["prompts"]["validation"] = "data/prompts/none.txt"
    lines = run_plan.lines(settings.validate(values, "params.yaml"))
    assert "MISSING    prompts.validation = data/prompts/none.txt" in list(lines)
    with pytest.raises(InputError, match="--gpu h300: not known; use one of h200"):
        list(run_plan.lines(other, gpu="h300"))
    with pytest.raises(InputError, match="--share"):
        list(run_plan.lines(other, share=1.5))


def test_more_gpus_shorten_the_days_and_not_the_bill(params: Path) -> None:
    values = settings.load(params).model_dump()
    values["generator"]["model"] = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    large = settings.validate(values, "params.yaml")
    one, eight = (
        next(line for line in run_plan.lines(large, gpus=gpus) if line.startswith("together"))
        for gpus in (1, 8)
    )
    assert one.split(":")[0] == eight.split(":")[0]
    minutes = [_minutes(line.split(": ")[1]) for line in (one, eight)]
    assert minutes[1] == pytest.approx(minutes[0] / 8, rel=0.05)


def _minutes(text: str) -> float:
    number, unit = text.split()[:2]
    return float(number) * {"s": 1 / 60, "min": 1, "hours": 60, "days": 1440}[unit]


def test_a_launch_command_must_run_its_stage(params: Path) -> None:
    values = settings.load(params).model_dump()
    values["launch"]["score"] = "torchrun --nproc-per-node 8"
    with pytest.raises(InputError, match=r"launch\.score = .* runs no `tgo score`"):
        settings.validate(values, "params.yaml")


def test_imported_ratings_leave_nothing_to_generate(
    params: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "SCORED", tmp_path / "scored")  # the repository may hold a run
    values = settings.load(params).model_dump()
    values["label"]["reward"] = "rating"
    imported = settings.validate(values, "params.yaml")
    lines = list(run_plan.lines(imported))
    assert any("nothing to generate: run `tgo import` first" in line for line in lines)
    assert any(line.startswith("storage    0 B") for line in lines)
    assert costs.scoring(imported, costs.MODELS["data/world/diffusion"]).images == 0


def test_imported_images_are_counted(
    params: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = settings.load(params).model_dump()
    values["label"]["reward"] = "rating"
    monkeypatch.chdir(tmp_path)
    write_scored(layout.SCORED, {"rating": np.arange(10, dtype=np.float32)})
    assert costs.stage_one(settings.validate(values, "params.yaml")) == (10, 5)


def test_durations_and_sizes_have_a_unit_that_a_person_uses(params: Path) -> None:
    lines = "\n".join(run_plan.lines(settings.load(params)))
    assert re.search(r"together   [\d.]+ (min|hours) on 2 CPU threads of this machine", lines)
    assert "images of 7.67 GFLOP" in lines
    assert re.search(r"storage .* MB \(images", lines)


def test_memory_is_told_with_what_makes_it_fit(params: Path) -> None:
    values = settings.load(params).model_dump()
    values["generator"]["model"] = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    large = settings.validate(values, "params.yaml")
    lines = list(run_plan.lines(large, gpu="rtx4090"))
    (peaks,) = (line for line in lines if line.startswith("memory"))
    assert re.search(r"score [\d.]+ GB, train [\d.]+ GB, .* of 25.8 GB of the card", peaks)
    train = next(line for line in lines if line.startswith("EXCEEDS    train takes"))
    assert "set train.gradient_accumulation_steps = " in train
    untold = list(run_plan.lines(large, gpu="165"))
    assert any(line.endswith("name the card's GB, too: --gpu 165:24") for line in untold)
    assert not any(line.startswith("EXCEEDS") for line in untold)


def test_a_card_by_name_or_by_its_speed(params: Path) -> None:
    known = planned(params, "sdxl-lora", gpu="rtx4090")["together"]
    assert known.endswith("on 1 RTX4090, assuming sample 40%, train 28% of 165.2 TFLOP/s")
    given = planned(params, "sdxl-lora", gpu="165.2", gpus=2)["together"]
    assert "on 2 GPUs, assuming" in given
    assert given.partition(":")[0] == known.partition(":")[0]
    for wrong in ("rtx1", "0", "-5", "nan", "inf"):
        with pytest.raises(InputError, match=f"--gpu {wrong}: not known; use one of h200"):
            planned(params, "sdxl-lora", gpu=wrong)
