"""`tgo fetch` and `tgo doctor`: what is missing, and bringing it, from servers on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from typer.testing import CliRunner

from tests import hub, workspace
from tests.pipeline.tools.test_preset import ONE_CARD
from tests.workspace import TGO
from tgo.pipeline.cli import app
from tgo.pipeline.config import settings
from tgo.pipeline.errors import InputError
from tgo.pipeline.tools import fetch, preset

CONTENT = bytes(range(256)) * 4000


class _Files(BaseHTTPRequestHandler):
    """Serves CONTENT at any address; `cut` ends the first whole answer in the middle."""

    cut = False
    asked: list[str | None]

    def do_HEAD(self) -> None:
        self._head(200, len(CONTENT))

    def do_GET(self) -> None:
        span = self.headers["Range"]
        self.asked.append(span)
        start = int(span.removeprefix("bytes=").rstrip("-")) if span else 0
        if start >= len(CONTENT):
            self._head(416, 0)
            return
        self._head(206 if start else 200, len(CONTENT) - start)
        whole = type(self).cut and not start
        self.wfile.write(CONTENT[start : len(CONTENT) // 2] if whole else CONTENT[start:])

    def _head(self, status: int, length: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@contextmanager
def serving(*, cut: bool = False) -> Iterator[tuple[str, list[str | None]]]:
    handler = type("Files", (_Files,), {"cut": cut, "asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/file", handler.asked  # type: ignore[attr-defined]
        finally:
            server.shutdown()
            thread.join()


def test_a_download_that_was_cut_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "folder/list.tsv"
    with serving(cut=True) as (address, asked):
        with pytest.raises(InputError, match="run the same command again"):
            fetch.download(address, path)
        assert not path.exists()
        fetch.download(address, path, hashlib.sha256(CONTENT).hexdigest())
    assert path.read_bytes() == CONTENT
    assert asked == [None, f"bytes={len(CONTENT) // 2}-"]
    assert [each.name for each in path.parent.iterdir()] == ["list.tsv"]


def test_another_file_than_the_published_one_is_refused(tmp_path: Path) -> None:
    with serving() as (address, _):
        with pytest.raises(InputError, match="is not the published file"):
            fetch.download(address, tmp_path / "head.pth", "0" * 64)
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="cannot be fetched"):
        fetch.download(address, tmp_path / "head.pth")


@pytest.fixture
def project(tiny_generator: Path, tiny_rewards: Mapping[str, str], tmp_path: Path) -> Path:
    """A project whose models lie on a hub, and whose lists are published files."""
    project = workspace.fill(tmp_path / "project", "someone/model", {"clip": "someone/clip"})
    for name, folder in (("model", tiny_generator), ("clip", Path(tiny_rewards["clip"]))):
        shutil.copytree(folder, tmp_path / "hub/someone" / name)
    name_prompts(project, parti="data/prompts/PartiPrompts.tsv")
    return project


def name_prompts(project: Path, validation: str = "validation.jsonl", **tests: str) -> None:
    lists = {name: f"data/prompts/{file}" for name, file in
             (("train", "train.jsonl"), ("validation", validation))}  # fmt: skip
    workspace.change(project, {"prompts": {**lists, "tests": tests}})


def test_what_is_missing_is_listed_by_kind(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    name_prompts(project, "none.txt", parti="data/prompts/PartiPrompts.tsv")
    found, lost = fetch.missing(settings.load("params.yaml"))
    assert [item.key for item in found] == [
        "generator.model",
        "rewards.clip",
        "prompts.tests.parti",
    ]
    assert [item.at_first_use for item in found] == [True, True, False]
    assert lost == [
        "prompts.validation = data/prompts/none.txt: nobody is known to offer it; put it there, "
        "or name another"
    ]


@pytest.mark.slow
def test_models_and_lists_are_fetched_and_then_nothing_is_left(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub's address is read when its library is imported: in a process of its own."""
    with hub.serving(tmp_path / "hub") as server:
        environment = os.environ | {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "cache")}
        environment.pop("HF_HUB_OFFLINE", None)
        name_prompts(project, own="data/prompts/test_seen.jsonl")

        def tgo(*words: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [TGO, *words], cwd=project, env=environment, capture_output=True, text=True,
                timeout=200, check=False,
            )  # fmt: skip

        listed = tgo("fetch", "--dry-run")
        assert "generator.model = someone/model: about" in listed.stdout, listed.stderr
        assert "licence: mit" in listed.stdout
        assert not server.fetched
        done = tgo("fetch", "--yes")
        assert done.returncode == 0, done.stderr
        assert {"someone/model/model_index.json", "someone/clip/config.json"} <= server.fetched
        assert tgo("fetch").stdout.strip().endswith("everything is here")
    assert json.loads(tgo("doctor", "--json").stdout)[-1]["state"] == "ok"


FETCHED = [name for name in ONE_CARD if name != "amused" and not name.startswith("ratings-")]


@pytest.mark.parametrize("name", FETCHED)
def test_all_that_a_preset_needs_can_be_fetched(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = Path(shutil.copy(workspace.ROOT / "params.yaml", tmp_path))
    preset.apply(name, workspace.ROOT / "presets", params)
    monkeypatch.chdir(tmp_path)
    found, lost = fetch.missing(settings.load(params))
    assert not lost
    rewards = {f"rewards.{n}" for n in ("pickscore", "hpsv2", "imagereward", "clip", "aesthetic")}
    prompts = {"prompts.train", "prompts.tests.parti", "prompts.tests.hpsv2"}
    assert {item.key for item in found} == {"generator.model", *rewards, *prompts}


def test_doctor_tells_missing_from_fetched_at_first_use(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    told = CliRunner().invoke(app, ["doctor"])
    assert told.exit_code == 2
    assert "note     generator.model = someone/model is not here yet" in told.output
    assert "MISSING  prompts.tests.parti = data/prompts/PartiPrompts.tsv" in told.output
    workspace.change(project, {"evaluate": {"judge": "mine:judge"}})
    workspace.change(project, {"device": "cuda"})
    told = CliRunner().invoke(app, ["doctor"])
    assert "its code runs with your rights" in told.output
    assert "torch sees no GPU" in told.output
    lora = {"rank": 4, "alpha": 4, "targets": None}
    workspace.change(project, {"train": {"lora": lora}, "generator": {"quantization": "int8"}})
    monkeypatch.setattr(
        "tgo.pipeline.tools.doctor.find_spec", lambda name: None if name == "torchao" else name
    )
    told = CliRunner().invoke(app, ["doctor"])
    assert "torchao, for generator.quantization: int8: pip install 'tgo[8bit]'" in told.output
