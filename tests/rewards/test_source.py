"""Hub ids resolve from the hub's cache without a network; what is on disk is never a hub id."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch

from tgo.rewards import checkpoint, clip, imagereward, pickscore
from tgo.rewards.base import Batch
from tgo.rewards.checksum import file_sha256
from tgo.rewards.errors import CheckpointError
from tgo.rewards.panel import Panel, load
from tgo.rewards.source import Files, HubId, Source, cached, hub_id

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, offline."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def put(hub: Path, repo: str, source: str | Path, *names: str) -> Path:
    """Files of a folder (all, if none is named) as the hub's cache holds a repository."""
    place = hub / f"models--{repo.replace('/', '--')}"
    folder = place / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs/main").write_text(COMMIT)
    for path in Path(source).iterdir():
        if not names or path.name in names:
            shutil.copy(path, folder)
    return folder


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("openai/clip-vit-large-patch14", HubId("openai/clip-vit-large-patch14", None, None)),
        ("yuvalkirstain/PickScore_v1@abc", HubId("yuvalkirstain/PickScore_v1", "abc", None)),
        ("xswu/HPSv2/HPS_v2.1_compressed.pt", HubId("xswu/HPSv2", None, "HPS_v2.1_compressed.pt")),
        ("xswu/HPSv2@v1/HPS_v2_compressed.pt", HubId("xswu/HPSv2", "v1", "HPS_v2_compressed.pt")),
        ("/models/clip", None),
        ("./models/clip", None),
        ("../models/clip", None),
        ("models", None),
        ("some/deeper/folder", None),
        ("present/mistyped", None),
        ("present/model", None),
    ],
)
def test_hub_ids(
    place: str, expected: HubId | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "present/model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert hub_id(place) == expected


def test_the_five_load_by_their_ids_offline(
    hub: Path,
    sources: dict[str, str],
    panel: Panel,
    images: torch.Tensor,
    prompts: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ids = {
        "pickscore": pickscore.PUBLISHED,
        "hpsv2": "xswu/HPSv2",
        "imagereward": "THUDM/ImageReward",
        "clip": clip.PUBLISHED,
        "aesthetic": "someone/aesthetic",
    }
    for name, repo in ids.items():
        put(hub, repo, sources[name])
    (hub / "models--someone--aesthetic/snapshots" / COMMIT / "aesthetic_config.json").write_text(
        f'{{"clip": "{clip.PUBLISHED}"}}'
    )
    with pytest.raises(CheckpointError, match="the published openai/clip-vit-large-patch14"):
        load("clip", clip.PUBLISHED)
    digest = file_sha256(Path(sources["clip"]) / "model.safetensors")
    monkeypatch.setitem(checkpoint.PUBLISHED_SHA256, clip.PUBLISHED, digest)
    named = Panel.load(ids)
    assert named.describe()["clip"]["version"] == clip.PUBLISHED
    assert len(named.networks()) == 8  # the CLIP tower is shared
    here, there = panel.score(images, prompts), named.score(images, prompts)
    for name in ids:
        assert torch.equal(here[name], there[name]), name


def test_words_come_from_the_model_cards_where_the_repository_has_none(
    hub: Path, sources: dict[str, str]
) -> None:
    weights = ("ImageReward.pt", "med_config.json", "vision_config.json")
    put(hub, "THUDM/ImageReward", sources["imagereward"], *weights)
    with pytest.raises(CheckpointError, match="bert-base-uncased"):
        load("imagereward", "THUDM/ImageReward")
    put(hub, imagereward.BERT, sources["imagereward"], "vocab.txt")
    assert "vocab.txt" in load("imagereward", "THUDM/ImageReward").files  # type: ignore[attr-defined]
    put(hub, pickscore.PUBLISHED, sources["pickscore"], "model.safetensors", "config.json")
    put(hub, pickscore.PROCESSOR, sources["pickscore"], "tokenizer.json", "tokenizer_config.json")
    assert "tokenizer.json" in load("pickscore", pickscore.PUBLISHED).files  # type: ignore[attr-defined]


def test_a_repository_that_is_not_there(hub: Path) -> None:
    with pytest.raises(CheckpointError, match="nobody/nothing: no file or folder") as caught:
        load("clip", "nobody/nothing")
    assert "\n" not in str(caught.value)
    assert cached("nobody/nothing", clip.FILES) is None


def test_what_is_missing(hub: Path, sources: dict[str, str], tmp_path: Path) -> None:
    put(hub, "some/clip", sources["clip"], "config.json")
    found = cached("some/clip", clip.FILES)
    assert found is not None
    assert found.missing() == ["model.safetensors"]
    with pytest.raises(CheckpointError, match=r"holds no model\.safetensors"):
        load("clip", "some/clip")
    (tmp_path / "x.pt").touch()
    assert Source(tmp_path / "x.pt", Files(("y.pt",))).missing() == []


def test_a_file_is_a_source_and_a_score_is_the_same(
    sources: dict[str, str], images: torch.Tensor, prompts: list[str]
) -> None:
    batch = Batch(images, prompts)
    for name, file in (("imagereward", "ImageReward.pt"), ("clip", "model.safetensors")):
        scores = load(name, Path(sources[name]) / file).score(batch)
        assert torch.equal(scores, load(name, sources[name]).score(batch))


class BreaksOff(BaseHTTPRequestHandler):
    """A hub that closes the connection in the middle of every file."""

    def do_GET(self) -> None:
        if self.path.startswith("/api/"):
            files = [{"type": "file", "path": "model.safetensors", "size": 10**6, "oid": "b" * 40}]
            siblings = [{"rfilename": "model.safetensors"}]
            model = {"id": "some/clip", "sha": COMMIT, "siblings": siblings}
            body = json.dumps(files if "/tree/" in self.path else model).encode()
            self.answer(len(body), body)
        else:
            self.answer(10**6, b"x" * 1000)

    def do_HEAD(self) -> None:
        self.answer(10**6, b"")

    def answer(self, length: int, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(length))
        self.send_header("ETag", '"abc"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


def test_a_download_that_breaks_off_is_one_line(tmp_path: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), BreaksOff)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    code = (
        "from tgo.rewards.errors import CheckpointError\n"
        "from tgo.rewards.source import Files, Source\n"
        "try:\n    Source('some/clip', Files(('model.safetensors',)))\n"
        "except CheckpointError as error:\n    print(error)\n"
    )
    # in a process of its own: the hub's address is read when its library is imported
    surroundings = {
        **os.environ,
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=surroundings, capture_output=True, text=True, check=True
    )
    server.shutdown()
    assert done.stdout.startswith("some/clip: ")
    assert "run again to resume" in done.stdout
