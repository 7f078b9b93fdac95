from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from tgo.pipeline import logs, templates

HOSTILE = "red\x1b[2J circle\u202e.png"
SHOWN = "red\N{REPLACEMENT CHARACTER}[2J circle\N{REPLACEMENT CHARACTER}.png"


def test_no_message_steers_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure()
    logging.getLogger("tgo.some.module").info("positives by domain: %s", HOSTILE)
    logging.getLogger("tgo.some.module").warning("%s: left out", HOSTILE)
    logs.note(HOSTILE)
    out, err = capsys.readouterr()
    assert out == f"positives by domain: {SHOWN}\n"
    assert err == f"warning: {SHOWN}: left out\n{SHOWN}\n"


def test_no_error_steers_a_terminal() -> None:
    command = [sys.executable, "-m", "tgo.pipeline.cli", "prompts", HOSTILE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert SHOWN in done.stderr
    assert "\x1b" not in done.stdout + done.stderr


def test_no_value_of_a_card_or_page_steers_anything() -> None:
    environment = templates._environment()
    assert environment.from_string("{{ text }}").render(text=HOSTILE) == SHOWN
