from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests import workspace
from tests.scores import write_scored
from tests.stage_one import contents
from tests.workspace import TGO, change, tgo
from tgo.pipeline.config import settings
from tgo.pipeline.errors import InputError
from tgo.pipeline.storage import shards
from tgo.pipeline.storage.locks import hold


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Settings whose models do not exist: enough for what is refused before they are loaded."""
    return workspace.fill(tmp_path, "nowhere/at/all", {"clip": "nowhere"})


def refused(folder: Path, command: str, *parts: str) -> None:
    """The command ends with status 2 and one line that has all `parts`."""
    done = tgo(folder, command)
    lines = [line for line in done.stderr.splitlines() if line]
    assert done.returncode == 2, done.stderr
    assert lines[-1].startswith("tgo: error: ")
    assert "Traceback" not in done.stderr
    assert all(part in lines[-1] for part in parts), lines[-1]


def test_bad_settings_and_prompts(place: Path) -> None:
    change(place, {"label": {"percentil": 40}})
    refused(place, "score", "params.yaml", "label.percentil", "did you mean label.percentile?")
    workspace.fill(place / "empty", "nowhere/at/all", {"clip": "nowhere"})
    (place / "empty/data/prompts/train.jsonl").write_text("")
    refused(place / "empty", "score", "data/prompts/train.jsonl", "holds no prompts")
    refused(place / "empty", "label", "data/scored", "holds no shards", "dvc repro")
    (place / "params.yaml").unlink()
    refused(place, "label", "params.yaml", "is missing")


def test_a_folder_held_by_another_run(place: Path) -> None:
    write_scored(place / "data/scored", np.arange(10))
    with hold(place / "data/labelled"):
        refused(place, "label", "data/labelled", f"is being written by process {os.getpid()} on")
    assert not (place / "data/labelled").exists()


def test_bad_shards(place: Path) -> None:
    scored = place / "data/scored"
    scores = np.arange(10, dtype=np.float32)
    write_scored(scored, scores)
    assert tgo(place, "label").returncode == 0
    before = contents(place / "data/labelled")
    path = scored / shards.shard_name(1, 2)
    path.write_bytes(path.read_bytes()[:-50])
    refused(place, "label", "data/scored/shard-00001-of-00002.parquet", "truncated", "makes")
    path.unlink()
    refused(place, "label", "shard-00001-of-00002.parquet is missing")
    scores[8] = np.nan
    write_scored(scored, scores)
    refused(place, "label", "shard-00001-of-00002.parquet", "r8", "nan")
    change(place, {"rewards": {"clip": "x", "hpsv2": "y"}, "label": {"reward": "hpsv2"}})
    refused(place, "label", "has no column 'hpsv2'")
    assert contents(place / "data/labelled") == before


@pytest.mark.slow
def test_bad_checkpoints(place: Path, tiny_generator: Path, tiny_rewards: dict[str, str]) -> None:
    refused(place, "score", "nowhere/at/all", "no such model folder", "generator.model")
    change(place, {"generator": {"model": str(tiny_generator)}})
    refused(place, "score", "nowhere", "no such file or folder")
    shutil.copytree(tiny_rewards["clip"], place / "clip")
    weights = place / "clip/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    change(place, {"rewards": {"clip": "clip"}})
    refused(place, "score", "clip/model.safetensors")
    assert not shards.present(place / "data/scored")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_stage_leaves_whole_files_and_goes_on(
    tmp_path: Path, tiny_generator: Path, tiny_rewards: dict[str, str], number: signal.Signals
) -> None:
    place = workspace.fill(tmp_path, tiny_generator, {"clip": tiny_rewards["clip"]})
    many = {
        "images_per_prompt": 20,
        "rows_per_shard": 20,
    }  # the work is not finished before the signal arrives
    change(place, {"score": many})
    process = subprocess.Popen([TGO, "score"], cwd=place, stderr=subprocess.PIPE, text=True)
    while not shards.present(place / "data/scored"):
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(number)
    _, told = process.communicate(timeout=300)
    assert process.returncode == 128 + number
    assert f"tgo: {number.name}: stopped; run the same command again to continue" in told
    assert not list(place.rglob("*.partial"))
    finished = {path: path.stat().st_mtime_ns for path in shards.present(place / "data/scored")}
    done = tgo(place, "score")
    assert done.returncode == 0, done.stderr
    assert f"{len(finished)} kept" in done.stdout
    assert "image/s" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    verified = tgo(place, "verify")
    assert verified.returncode == 0
    assert "data/scored: ok" in verified.stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_inside_an_import_that_catches_everything(
    tmp_path: Path, number: signal.Signals
) -> None:
    (tmp_path / "slow.py").write_text(
        "import os, time\n"
        "try:\n"
        f"    os.kill(os.getpid(), {int(number)})\n"
        "    time.sleep(5)\n"
        "except BaseException:\n"
        "    print('swallowed')\n"
    )
    code = (
        "import signal, sys\n"
        "from tgo.pipeline import cli\n"
        f"signal.signal({int(number)}, cli._stop)\n"
        "import slow\n"
        "print('went on')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (128 + number, "")
    assert done.stderr == (f"tgo: {number.name}: stopped; run the same command again to continue\n")


def test_stopped_inside_a_finaliser_that_drops_every_exception(tmp_path: Path) -> None:
    code = (
        "import os, signal, time\n"
        "from tgo.pipeline import cli\n"
        "signal.signal(signal.SIGTERM, cli._stop)\n"
        "cli.UNWINDING_SECONDS = 0.2\n"
        "class Dropping:\n"
        "    def __del__(self): os.kill(os.getpid(), signal.SIGTERM); time.sleep(0)\n"
        "Dropping()\n"
        "time.sleep(60)\n"
        "print('went on')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (128 + signal.SIGTERM, "")
    assert "Exception ignored in" in done.stderr


def test_names_of_rewards_that_collide_with_columns(place: Path) -> None:
    for name in ("prompt", "Status", "latents", "rating", "a/b", "../x", ""):
        change(place, {"rewards": {"clip": "x", name: {"module": "mine.py"}}})
        with pytest.raises(InputError, match=f"rewards.{re.escape(name)}: is "):
            settings.load(place / "params.yaml")


def test_help_and_wrong_use_need_no_models(place: Path) -> None:
    done = tgo(place, "--help")
    assert done.returncode == 0
    for command in ("score", "label", "train", "evaluate", "report", "verify", "preset"):
        assert command in done.stdout
    assert tgo(place, "scor").returncode == 2
    refused(place, "verify", "nothing to verify yet")


def test_stopped_while_the_command_line_is_imported(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "class Stopping:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'typer': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Stopping())\n"
        "import tgo.pipeline.__main__\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")
