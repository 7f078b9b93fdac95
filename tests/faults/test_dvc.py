from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests import workspace
from tests.stage_one import contents
from tests.workspace import ROOT, TGO, change, tgo
from tgo.pipeline.cards import dataset_card

pytestmark = pytest.mark.slow
CODE = ("pipeline", "rewards", "trainer")  # symlinked, so that DVC hashes the code that runs
FILES = ("dvc.yaml", ".dvcignore", ".gitignore")
ENVIRONMENT = {**os.environ, "PATH": f"{TGO.parent}:{os.environ['PATH']}"}


@pytest.fixture(scope="module")
def repository(
    tmp_path_factory: pytest.TempPathFactory, tiny_generator: Path, tiny_rewards: dict[str, str]
) -> Path:
    """The repository with tiny models in the world's places, after one `dvc repro`."""
    root = tmp_path_factory.mktemp("repository")
    for name in CODE:
        (root / name).symlink_to(ROOT / name)
    for name in FILES:
        shutil.copy(ROOT / name, root / name)
    unwanted = shutil.ignore_patterns("__pycache__", "build", "diffusion", "rewards")
    shutil.copytree(ROOT / "data/world", root / "data/world", ignore=unwanted)
    shutil.copytree(tiny_generator, root / "data/world/diffusion")
    shutil.copytree(Path(tiny_rewards["clip"]).parent, root / "data/world/rewards")
    rewards = {name: f"data/world/rewards/{name}" for name in tiny_rewards}
    workspace.fill(root, "data/world/diffusion", rewards)
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    (root / ".dvc").mkdir()
    shutil.copy(ROOT / ".dvc/config", root / ".dvc/config")
    shutil.copytree(ROOT / ".dvc/plots", root / ".dvc/plots")
    done = dvc(root, "repro")
    assert done.returncode == 0, done.stdout + done.stderr
    return root


def dvc(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command: list[str | Path] = [TGO.with_name("dvc"), *arguments]
    return subprocess.run(
        command, cwd=root, env=ENVIRONMENT, check=False, capture_output=True, text=True
    )


def test_one_command_makes_everything_and_a_second_does_nothing(repository: Path) -> None:
    for name in (
        "data/scored/shard-00003-of-00004.parquet",
        "data/labelled/threshold.json",
        "models/tuned/model_index.json",
        "reports/metrics.json",
        "reports/index.html",
    ):
        assert (repository / name).is_file()
    before = contents(repository / "data")
    done = dvc(repository, "repro")
    assert "Data and pipelines are up to date." in done.stdout
    assert contents(repository / "data") == before
    metrics = dvc(repository, "metrics", "show", "--md").stdout
    assert "reports/metrics.json" in metrics
    assert max(map(len, metrics.splitlines())) < 400  # a dozen numbers


def test_a_colleague_pulls_and_makes_the_report_alone(repository: Path, tmp_path: Path) -> None:
    """Without the images of stage one, and without a scratch folder of training."""
    (tmp_path / "remote").mkdir()
    dvc(repository, "remote", "add", "-f", "-d", "store", str(tmp_path / "remote"))
    assert dvc(repository, "push").returncode == 0
    shared = tmp_path / "shared"
    shutil.rmtree(repository / "data/checkpoints")  # a finished run needs no checkpoint
    made = ("scored", "prompt_embeddings", "evaluated", "labelled", "cache")
    shutil.copytree(repository, shared, symlinks=True, ignore=shutil.ignore_patterns(*made))
    shutil.rmtree(shared / "reports")
    shutil.rmtree(shared / "models")
    pulled = dvc(shared, "pull")
    assert pulled.returncode == 0, pulled.stdout + pulled.stderr
    assert not (shared / "data/scored").exists()
    change(shared, {"report": {"gallery": 3}})
    done = dvc(shared, "repro", "--allow-missing", "report")
    assert done.returncode == 0, done.stdout + done.stderr
    ran = [line for line in done.stdout.splitlines() if line.startswith("Running stage")]
    assert ran == ["Running stage 'report':"]
    assert (shared / "reports/index.html").is_file()


def test_the_plot_shows_the_threshold_in_the_distribution(repository: Path) -> None:
    done = dvc(repository, "plots", "show", "-o", "plots")
    assert done.returncode == 0, done.stderr
    page = (repository / "plots/index.html").read_text()
    assert '"rule"' in page
    assert '"threshold":' in page
    assert "with the threshold" in page


def test_a_new_percentile_runs_label_and_what_follows_only(repository: Path) -> None:
    scored = contents(repository / "data/scored")
    change(repository, {"label": {"percentile": 70}})
    done = dvc(repository, "repro", "label")
    assert "Running stage 'label'" in done.stdout
    assert "Running stage 'score'" not in done.stdout
    assert contents(repository / "data/scored") == scored
    status = dvc(repository, "status").stdout
    assert "train:" in status
    assert "score:" not in status
    change(repository, {"label": {"percentile": 50}})
    done = dvc(repository, "repro", "label")
    assert "cached" in done.stdout  # labels of earlier thresholds come from the run cache
    assert "data/labelled" not in dvc(repository, "status", "label").stdout


def test_a_new_seed_makes_new_images_through_any_kill(repository: Path, tmp_path: Path) -> None:
    old = contents(repository / "data/scored")
    change(repository, {"seed": 1})
    process = subprocess.Popen(
        [TGO.with_name("dvc"), "repro", "score"],
        cwd=repository,
        env=ENVIRONMENT,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    first = repository / "data/scored/shard-00000-of-00004.parquet"
    while not (first.exists() and first.read_bytes() != old[first.name]):
        assert process.poll() is None, "ended before it could be killed"
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    made = first.stat().st_mtime_ns
    done = dvc(repository, "repro", "label")
    assert done.returncode == 0, done.stdout + done.stderr
    assert first.stat().st_mtime_ns == made  # finished before the kill, so kept
    new = contents(repository / "data/scored")
    assert new.keys() == old.keys()
    assert not [name for name in new if name != dataset_card.NAME and new[name] == old[name]]
    fresh = tmp_path / "fresh"
    shutil.copytree(repository / "data/world", fresh / "data/world")
    shutil.copytree(repository / "data/prompts", fresh / "data/prompts")
    shutil.copy(repository / "params.yaml", fresh)
    assert tgo(fresh, "score").returncode == 0
    assert contents(fresh / "data/scored") == new
