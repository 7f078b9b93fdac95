"""The rating page in a real browser: by keyboard and by touch, at every width."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from werkzeug.serving import make_server

from tests.pipeline.page import browser
from tests.pipeline.page.browser import Tab
from tests.pipeline.page.test_browser import CONTRAST, PROBE
from tests.pipeline.rating_page import folders
from tgo.pipeline.rating_page import pictures, questions
from tgo.pipeline.rating_page.answers import TABLE, Answers
from tgo.pipeline.rating_page.questions import Question
from tgo.pipeline.rating_page.server import application
from tgo.pipeline.rating_page.session import Options, Session

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(browser.CHROMIUM is None, reason="no chromium on this machine"),
]
ASKED = "!document.querySelector('#rate').hidden"
READY = "[...document.images].every(i => i.complete) && !document.body.classList.contains('busy')"


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with browser.tab(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@contextmanager
def serving(asked: list[Question], output: Path, port: int = 0) -> Iterator[str]:
    session = Session(asked, Answers(output, {}), Options(repeat_share=0))
    app, _ = application(session, host="127.0.0.1", instructions="Rate the <b>picture</b>.")
    server = make_server("127.0.0.1", port, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def asked_about(tmp_path: Path, kind: str) -> list[Question]:
    found = pictures.read(folders.write(tmp_path / "scored"))
    if kind == "pair":
        return questions.pairs(found, seed=0)
    return questions.singles(found) if kind == "single" else questions.grids(found)


def begin(tab: Tab, address: str, width: int = 1280, rater: str = "ada") -> None:
    tab.complaints.clear()
    tab.open(address, width)
    tab.run(f"document.querySelector('#name').value = {json.dumps(rater)}")
    tab.key("Enter", "\r")
    tab.wait(f"{ASKED} && {READY}")


def answered(tab: Tab, count: int) -> None:
    tab.wait(f"document.querySelector('#count').textContent.includes(': {count} of') && {READY}")


def rows(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / TABLE).read_text().splitlines()]


@pytest.mark.parametrize("kind", ["single", "pair", "grid"])
@pytest.mark.parametrize("width", [390, 820, 1280])
def test_everything_is_shown_at_every_width(
    tab: Tab, tmp_path: Path, kind: str, width: int
) -> None:
    with serving(asked_about(tmp_path, kind), tmp_path / "out") as address:
        begin(tab, address, width)
        found = tab.run(PROBE)
        assert {key: found[key] for key in ("overflow", "cut", "broken", "unnamed")} == {
            "overflow": 0, "cut": 0, "broken": 0, "unnamed": 0,
        }  # fmt: skip
        assert tab.run(CONTRAST) == []
        assert tab.run("Math.min(...[...document.querySelectorAll('#rate button')]"
                       ".map(b => b.getBoundingClientRect().height))") >= 44  # fmt: skip
        assert tab.complaints == []


def test_stars_by_keyboard_alone(tab: Tab, tmp_path: Path) -> None:
    with serving(asked_about(tmp_path, "single"), tmp_path / "out") as address:
        begin(tab, address)
        for count, key in enumerate("51s3u4", start=1):
            tab.key(key, key)
            answered(tab, {3: 2, 4: 3, 5: 2, 6: 3}.get(count, count))
        assert [row["rating"] for row in rows(tmp_path / "out")] == [5, 1, 4]
        tab.key("z", "z")
        tab.wait("document.querySelector('dialog').open")
        assert tab.run("document.querySelector('dialog img').width") == 512
        tab.key("Escape")
        tab.wait("!document.querySelector('dialog').open")


def test_comparisons_by_keyboard_alone(tab: Tab, tmp_path: Path) -> None:
    with serving(asked_about(tmp_path, "pair"), tmp_path / "out") as address:
        begin(tab, address)
        for count, key in enumerate(("a", "b", "t", "ArrowLeft", "ArrowRight"), start=1):
            tab.key(key, key if len(key) == 1 else "")
            if count < 5:
                answered(tab, count)
        tab.wait("!document.querySelector('#done').hidden")
        told = [(row["preferred"], row["left"]) for row in rows(tmp_path / "out")]
        sides = ["tie" if who == "tie" else who == left for who, left in told]
        assert sides == [True, False, "tie", True, False]


def test_a_grid_by_keyboard_and_by_mouse(tab: Tab, tmp_path: Path) -> None:
    with serving(asked_about(tmp_path, "grid"), tmp_path / "out") as address:
        begin(tab, address)
        tab.wait("document.querySelectorAll('#pictures img').length === 2 || true")
        count = tab.run("document.querySelectorAll('#pictures img').length")
        for number in range(count):
            tab.key(str(5 - number), str(5 - number))
        tab.key("Enter", "\r")
        answered(tab, 1)
        shown = tab.run("document.querySelectorAll('#pictures img').length")
        for _ in range(shown):
            tab.click("#answers button[data-value='2']")
        tab.click("#answers [name=send]")
        answered(tab, 2)
        assert [row["rating"] for row in rows(tmp_path / "out")] == [
            *range(5, 5 - count, -1),
            *[2] * shown,
        ]


def test_hostile_prompts_stay_text(tab: Tab, tmp_path: Path) -> None:
    asked = [q for q in asked_about(tmp_path, "single") if "onerror" in q.prompt]
    with serving(asked, tmp_path / "out") as address:
        begin(tab, address)
        shown = tab.run("document.querySelector('#prompt').textContent")
        assert shown.startswith("<img src=x onerror=alert(1)>")
        assert "\x1b" not in shown
        assert "\u202e" not in shown
        assert tab.run("document.querySelectorAll('#prompt *, #instructions *').length") == 0
        assert tab.complaints == []


def test_an_answer_that_did_not_arrive_is_said_and_can_be_given_again(
    tab: Tab, tmp_path: Path
) -> None:
    asked = asked_about(tmp_path, "single")
    with serving(asked, tmp_path / "out") as address:
        begin(tab, address)
    port = int(address.rsplit(":", 1)[1].strip("/"))
    tab.key("4", "4")
    tab.wait("!document.querySelector('#fault').hidden")
    assert "not saved" in tab.run("document.querySelector('#fault').textContent")
    with serving(asked, tmp_path / "out", port):
        tab.key("3", "3")  # the new server has asked this rater nothing yet
        answered(tab, 0)
        tab.key("3", "3")
        answered(tab, 1)
    assert [row["rating"] for row in rows(tmp_path / "out")] == [3]
