"""Judges over HTTP, against servers on this machine that answer, misbehave, and count."""

from __future__ import annotations

import importlib.util
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch

from tgo.rewards.base import describe
from tgo.rewards.errors import RewardError, Stopped
from tgo.rewards.panel import Panel

IMAGES = torch.arange(2 * 3 * 8 * 8, dtype=torch.uint8).view(2, 3, 8, 8)
PROMPTS = ["a red circle", 'a "quoted" prompt\nof two lines']
CRITERIA = {"prompt": "follows its prompt", "quality": "is free of artefacts"}
FAST = {"attempts": 3, "pause": 0.01, "timeout": 2}
Answer = Callable[[dict[str, Any], int], tuple[int, str]]


class Server(ThreadingHTTPServer):
    """Answers by a function of the request and its number; keeps what it was sent."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer, self.asked = answer, list[dict[str, Any]]()
        self.keys: set[str | None] = set()
        self.retry_after: str | None = None
        self.breaks_off = 0
        """How many answers end half way."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        self.server.keys.add(self.headers["Authorization"])
        status, text = self.server.answer(body, len(self.server.asked))
        if not status:
            return  # hangs up
        self.send_response(status)
        if self.server.retry_after:
            self.send_header("Retry-After", self.server.retry_after)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        if self.server.breaks_off:
            self.server.breaks_off -= 1
            text = text[:10]
        self.wfile.write(text.encode())

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@contextmanager
def serving(answer: Answer) -> Iterator[tuple[Server, str]]:
    with Server(answer) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server, f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def says(content: str) -> str:
    return json.dumps({"choices": [{"message": {"content": content}}]})


def judge(url: str, cache: Path, **options: Any) -> Panel:
    chosen = {"model": "a-model", "criteria": CRITERIA, "cache": str(cache), **FAST, **options}
    entry = {"module": "tgo.rewards.vlm_judge", "source": f"{url}/v1", "options": chosen}
    return Panel.load({"judge": entry})


def remote(url: str, cache: Path, **options: Any) -> Panel:
    chosen = {"cache": str(cache), **FAST, **options}
    entry = {"module": "tgo.rewards.score_server", "source": url, "options": chosen}
    return Panel.load({"remote": entry})


def test_a_judge_is_asked_once_an_image_and_never_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "secret-key")

    def answer(body: dict[str, Any], _: int) -> tuple[int, str]:
        text = body["messages"][0]["content"][0]["text"]
        first = json.dumps(PROMPTS[0]) in text
        return 200, says(f'Sure! {{"prompt": {9 if first else 4}, "quality": 6.5}} Bye.')

    cache = tmp_path / "cache/answers.sqlite"
    with serving(answer) as (server, url):
        for _ in range(2):
            panel = judge(url, cache, key_variable="MY_KEY")
            scores = panel.score(IMAGES, PROMPTS)["judge"]
            assert scores.tolist() == [7.75, 5.25]
        assert len(server.asked) == 2
        assert server.keys == {"Bearer secret-key"}
        other = judge(url, cache, key_variable="MY_KEY", criteria={"prompt": "is right"})
        other.score(IMAGES, PROMPTS)
        assert len(server.asked) == 4
    facts = panel.describe()["judge"]
    assert facts["checkpoint_sha256"] != other.describe()["judge"]["checkpoint_sha256"]
    assert facts["model"] == "a-model"
    assert facts["unit"] == "rating 1 to 10"
    assert "secret-key" not in json.dumps(facts) + cache.read_bytes().decode("latin-1")


def test_what_was_answered_before_a_failure_is_kept(tmp_path: Path) -> None:
    good = says('{"prompt": 5, "quality": 5}')

    def answer(_: dict[str, Any], number: int) -> tuple[int, str]:
        return (200, good) if number == 1 else (400, "no")

    with serving(answer) as (server, url):
        with pytest.raises(RewardError, match="answers with status 400"):
            judge(url, tmp_path / "a.sqlite", workers=1).score(IMAGES, PROMPTS)
        server.answer = lambda *_: (200, good)
        asked = len(server.asked)
        judge(url, tmp_path / "a.sqlite", workers=1).score(IMAGES, PROMPTS)
        assert len(server.asked) == asked + 1


@pytest.mark.parametrize("first", [(503, "busy"), (429, "slow down"), (500, ""), (0, "")])
def test_a_request_that_may_succeed_is_tried_again(first: tuple[int, str], tmp_path: Path) -> None:
    def answer(body: dict[str, Any], number: int) -> tuple[int, str]:
        scores = json.dumps({"scores": [0.5] * len(body["prompts"])})
        return first if number == 1 else (200, scores)

    with serving(answer) as (server, url):
        scores = remote(url, tmp_path / "a.sqlite").score(IMAGES, PROMPTS)["remote"]
        assert scores.tolist() == [0.5, 0.5]
        assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("status", "text", "words"),
    [
        (200, '{"scores": [0.5]}', r"2 finite numbers, but gave 1 entries"),
        (200, '{"scores": [0.5, "x"]}', "must answer"),
        (200, '{"scores": [0.5, NaN]}', "must answer"),
        (200, "[]", "nothing of that name"),
        (200, "<html>", "answers no JSON"),
        (401, "", "refuses the key"),
        (429, "", "no quota left"),
        (503, "", "answers with status 503"),
        (0, "", "does not answer"),
    ],
)
def test_a_server_that_misbehaves_is_one_line(
    status: int, text: str, words: str, tmp_path: Path
) -> None:
    with (
        serving(lambda *_: (status, text)) as (_, url),
        pytest.raises(RewardError, match=words) as caught,
    ):
        remote(url, tmp_path / "a.sqlite").score(IMAGES, PROMPTS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        "seven",
        '{"prompt": 5}',
        '{"prompt": true, "quality": true}',
        '<think>{"prompt": 5, "quality": 5}</think> I cannot say.',
        '{"prompt": 5, "quality": 11}',
        '{"prompt": "x", "q',
    ],
)
def test_a_judge_that_gives_no_numbers_is_named(content: str, tmp_path: Path) -> None:
    with serving(lambda *_: (200, says(content))) as (server, url):
        with pytest.raises(RewardError, match="gives no number from 1 to 10 for each of prompt"):
            judge(url, tmp_path / "a.sqlite", workers=1).score(IMAGES[:1], PROMPTS[:1])
        assert len(server.asked) == 3


def test_what_a_judge_thinks_aloud_is_no_answer(tmp_path: Path) -> None:
    thought = '<think>maybe {"prompt": 1, "quality": 1}</think> {"prompt": 7, "quality": "8"}'
    with serving(lambda *_: (200, says(thought))) as (server, url):
        scores = judge(url, tmp_path / "a.sqlite", max_tokens=4000).score(IMAGES, PROMPTS)
        assert scores["judge"].tolist() == [7.5, 7.5]
        assert {asked["max_tokens"] for asked in server.asked} == {4000}


def test_tries_count_as_requests(tmp_path: Path) -> None:
    with serving(lambda *_: (500, "")) as (server, url):
        with pytest.raises(RewardError, match="budget of 4 requests is spent"):
            judge(url, tmp_path / "a.sqlite", budget=4, attempts=10, workers=2).score(
                IMAGES, PROMPTS
            )
        assert len(server.asked) == 4


def test_a_key_that_the_server_repeats_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "secret-key")
    with (
        serving(lambda *_: (400, "no such key: secret-key")) as (_, url),
        pytest.raises(RewardError, match="status 400") as caught,
    ):
        judge(url, tmp_path / "a.sqlite", key_variable="MY_KEY").score(IMAGES, PROMPTS)
    assert "secret-key" not in str(caught.value)


def test_a_server_that_wants_hours_ends_the_run(tmp_path: Path) -> None:
    with serving(lambda *_: (429, "")) as (server, url):
        server.retry_after = "3600"
        with pytest.raises(RewardError, match="asks to wait 3,600 s"):
            judge(url, tmp_path / "a.sqlite", workers=1).score(IMAGES[:1], PROMPTS[:1])
        assert len(server.asked) == 1


def test_an_answer_that_breaks_off_is_asked_for_again(tmp_path: Path) -> None:
    with serving(lambda *_: (200, says('{"prompt": 5, "quality": 5}'))) as (server, url):
        server.breaks_off = 1
        scores = judge(url, tmp_path / "a.sqlite", workers=1).score(IMAGES, PROMPTS)
        assert scores["judge"].tolist() == [5.0, 5.0]
        assert len(server.asked) == 3


def test_a_signal_is_not_blamed_on_a_reward_model(tmp_path: Path) -> None:
    module = tmp_path / "stopped.py"
    module.write_text(
        "from tgo.rewards.errors import Stopped\n"
        "def load(source, *, device, dtype):\n"
        "    raise Stopped(143)\n"
    )
    with pytest.raises(Stopped):
        Panel.load({"stopped": {"module": str(module)}})


def test_settings_that_cannot_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    cache = tmp_path / "a.sqlite"
    with pytest.raises(RewardError, match="MY_KEY is not set in the environment"):
        judge("http://127.0.0.1:1", cache, key_variable="MY_KEY")
    with pytest.raises(RewardError, match="name an address"):
        remote("models/judge", cache)
    with pytest.raises(RewardError, match="does not answer"):
        remote("http://127.0.0.1:1", cache).score(IMAGES, PROMPTS)
    (tmp_path / "text").write_text("no database, but long enough to be taken for one" * 99)
    with pytest.raises(RewardError, match="is no cache of answers"):
        remote("http://127.0.0.1:1", tmp_path / "text")
    with pytest.raises(sqlite3.DatabaseError):
        sqlite3.connect(tmp_path / "text").execute("select 1 from answers")


def test_a_budget_is_kept(tmp_path: Path) -> None:
    answer = says('{"prompt": 5, "quality": 5}')
    with serving(lambda *_: (200, answer)) as (server, url):
        with pytest.raises(RewardError, match="budget of 1 requests is spent"):
            judge(url, tmp_path / "a.sqlite", budget=1, workers=1).score(IMAGES, PROMPTS)
        assert len(server.asked) == 1


def test_the_example_server_scores(tmp_path: Path) -> None:
    path = Path(__file__).parents[2] / "docs/examples/hpsv3_server.py"
    spec = importlib.util.spec_from_file_location("hpsv3_server", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def widths(images: Any, prompts: Any) -> list[float]:
        return [
            image.width + len(prompt) / 100 for image, prompt in zip(images, prompts, strict=True)
        ]

    with module.serve(widths, 0) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/score"
        panel = remote(url, tmp_path / "a.sqlite", model="widths 1")
        scores = panel.score(IMAGES, PROMPTS)["remote"]
        server.shutdown()
        thread.join()
    expected = [8 + len(prompt) / 100 for prompt in PROMPTS]
    assert scores.tolist() == pytest.approx(expected)
    assert describe(panel._models["remote"])["model"] == "widths 1"
