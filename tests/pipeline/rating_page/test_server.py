"""The local server: who may ask it, and what it answers to nonsense."""

from __future__ import annotations

import json
import math
import re
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.pipeline.rating_page import folders
from tests.workspace import TGO, free_port
from tgo.pipeline.rating_page import pictures, questions
from tgo.pipeline.rating_page.answers import TABLE, Answers
from tgo.pipeline.rating_page.server import application
from tgo.pipeline.rating_page.session import Options, Session

HERE = "127.0.0.1"


@pytest.fixture
def scored(tmp_path: Path) -> Path:
    return folders.write(tmp_path / "scored")


def client_at(host: str, scored: Path, output: Path) -> tuple[FlaskClient, str | None]:
    asked = questions.singles(pictures.read(scored))
    app, token = application(Session(asked, Answers(output, {}), Options()), host=host)
    return app.test_client(), token


def post(client: FlaskClient, action: str, **body: Any) -> Any:
    return client.post(f"/api/{action}", json=body)


def test_a_question_comes_without_ids_of_models_and_its_picture_is_served(
    scored: Path, tmp_path: Path
) -> None:
    client, token = client_at(HERE, scored, tmp_path / "out")
    assert token is None
    told = post(client, "next", rater="ada").json
    assert set(told["question"]) == {"key", "kind", "prompt", "pictures", "scale"}
    picture = client.get("/" + told["question"]["pictures"][0])
    assert picture.data == folders.png(int(told["question"]["key"][1:]))
    assert "script-src 'self'" in picture.headers["Content-Security-Policy"]
    values = post(client, "answer", rater="ada", question=told["question"]["key"], values=[4])
    assert values.json["progress"]["answered"] == 1
    assert values.json["question"]["key"] != told["question"]["key"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({}, "a rater's name"),
        ({"rater": " "}, "a rater's name"),
        ({"rater": "x" * 41}, "a rater's name"),
        ({"rater": "a\x1b[31m"}, "a rater's name"),
        ({"rater": ["ada"]}, "a rater's name"),
        ({"rater": "ada", "values": 3}, "needs a list"),
        ({"rater": "ada", "values": [9]}, "ratings from 1 to 5"),
        ({"rater": "ada", "values": [{"a": 1}]}, "ratings from 1 to 5"),
        ({"rater": "ada", "values": [3], "seconds": "soon"}, "seconds a number"),
        ({"rater": "ada", "values": [3], "seconds": -5}, "seconds a number"),
        ({"rater": "ada", "values": [3], "seconds": math.nan}, "seconds a number"),
    ],
)
def test_nonsense_is_refused_in_a_line(
    scored: Path, tmp_path: Path, body: dict[str, Any], reason: str
) -> None:
    client, _ = client_at(HERE, scored, tmp_path / "out")
    key = post(client, "next", rater="ada").json["question"]["key"]
    answer = post(client, "answer", **{"question": key, **body})
    assert answer.status_code == 400
    assert reason in answer.json["error"]
    assert not (tmp_path / "out" / TABLE).exists()


def test_other_requests_are_refused(scored: Path, tmp_path: Path) -> None:
    client, _ = client_at(HERE, scored, tmp_path / "out")
    assert client.get("/", headers={"Host": "evil.example:8000"}).status_code == 403
    for host in ("localhost:8000", "127.0.0.1", "[::1]:8000"):
        assert client.get("/", headers={"Host": host}).status_code == 200
    assert client.post("/api/next", data="rater=ada").status_code == 415
    assert client.post("/api/next", data="{", content_type="application/json").status_code == 400
    other = client.post("/api/next", json={"rater": "a"}, headers={"Sec-Fetch-Site": "cross-site"})
    assert other.status_code == 403
    for name in ("../questions.json", "%2e%2e/questions.json", "x.png", "0" * 20 + ".png"):
        assert client.get(f"/images/{name}").status_code == 404
    assert client.post("/api/next", json={"rater": "a" * 70_000}).status_code == 413


def test_a_server_for_other_machines_wants_its_token(scored: Path, tmp_path: Path) -> None:
    client, token = client_at("0.0.0.0", scored, tmp_path / "out")
    assert token is not None
    assert client.get("/").status_code == 403
    for guess in ("guess", "%C3%A9"):
        assert client.get(f"/?token={guess}").status_code == 403
    assert post(client, "next", rater="ada").status_code == 403
    assert client.get(f"/?token={token}").status_code == 302
    assert post(client, "next", rater="ada").status_code == 200


def test_a_token_of_the_environment_outlives_the_server(
    scored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TGO_ASK_TOKEN", "long-and-secret")
    assert client_at("0.0.0.0", scored, tmp_path / "out")[1] == "long-and-secret"


@contextmanager
def running(folder: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`tgo ask` in a folder, and the address that it prints."""
    process = subprocess.Popen(
        [TGO, "ask", "scored", "--output", "ratings", "--port", str(free_port()), *options],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if found := re.search(r"open (http://\S+)", line):
                break
        else:
            raise AssertionError("".join(lines))
        time.sleep(0.2)
        yield process, found[1]
    finally:
        process.kill()
        process.wait()


def call(address: str, action: str, **body: Any) -> Any:
    request = urllib.request.Request(
        f"{address}api/{action}",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


@pytest.mark.slow
def test_nothing_is_lost_by_a_kill_while_two_rate_at_once(tmp_path: Path) -> None:
    folders.write(tmp_path / "scored", 200)
    acknowledged: list[tuple[str, str]] = []

    def rate(address: str, rater: str) -> None:
        try:
            told = call(address, "next", rater=rater)
            while told["question"]:
                key = told["question"]["key"]
                told = call(address, "answer", rater=rater, question=key, values=[3], seconds=1)
                acknowledged.append((rater, key))
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return  # the server was killed

    for wait in (0.4, 0.7, None):
        with running(tmp_path, "--repeats", "0") as (process, address):
            threads = [threading.Thread(target=rate, args=(address, who)) for who in ("ada", "bob")]
            for thread in threads:
                thread.start()
            if wait:
                time.sleep(wait)
                process.kill()
            for thread in threads:
                thread.join()
            if not wait:
                process.send_signal(signal.SIGINT)
                assert process.wait(10) == 0
        lines = (tmp_path / "ratings" / TABLE).read_text().splitlines()
        written = Counter((row["rater"], row["question"]) for row in map(json.loads, lines))
        assert set(acknowledged) <= set(written)
        assert set(written.values()) == {1}
    assert len(written) == 2 * 199


@pytest.mark.slow
def test_a_second_server_for_the_same_answers_is_refused(tmp_path: Path) -> None:
    folders.write(tmp_path / "scored")
    with running(tmp_path):
        second = subprocess.run(
            [TGO, "ask", "scored", "--output", "ratings", "--port", str(free_port())],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert second.returncode == 2
    assert "is being written by process" in second.stderr
