"""The log file of a run, and the timings beside it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from tgo.trainer.loggers import Loggers
from tgo.trainer.speed import Speed


def _entry(text: str) -> dict[str, Any]:
    """A line of timings; empty for one that a full disk cut off."""
    try:
        return dict(json.loads(text))
    except ValueError:
        return {}


class TrainLog:
    """The log file of a run, rewritten from ``text`` (that of a checkpoint) when it begins.

    Timings go beside it, and each line with its timing to ``loggers``, earlier ones first.
    """

    def __init__(self, path: Path, text: str, loggers: Loggers) -> None:
        self._path, self._loggers = path, loggers
        self._timing = path.with_name("train_timing.jsonl")
        self.lines: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()]
        """All lines so far."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        timings = self._rewind_timings()
        for line in self.lines:
            loggers.line(line | timings.get(line["step"], {}))
        self._clock = time.monotonic()

    def text(self) -> str:
        """The file as it is."""
        return self._path.read_text(encoding="utf-8")

    def pause(self, seconds: float) -> None:
        """Leave out of the next line's timing what was no training."""
        self._clock += seconds

    def write(self, line: dict[str, Any], images: int, speed: Speed) -> dict[str, float | None]:
        """Append a line that tells of ``images`` images; returns its timing (`Speed.of`)."""
        now = time.monotonic()
        seconds, self._clock = now - self._clock, now
        timing = speed.of(images, seconds)
        self.lines.append(line)
        timed = {"step": line["step"], **timing}
        for path, entry in ((self._path, line), (self._timing, timed)):
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
        self._loggers.line(line | timing)
        return timing

    def _rewind_timings(self) -> dict[int, dict[str, Any]]:
        """Keep the timings of the lines there are, no others, one each; returns them by step."""
        kept = {}
        if self._timing.is_file():
            there = {line["step"] for line in self.lines}
            told = [_entry(text) for text in self._timing.read_text(encoding="utf-8").splitlines()]
            kept = {entry["step"]: entry for entry in told if entry.get("step") in there}
        text = "".join(json.dumps(entry) + "\n" for entry in kept.values())
        self._timing.write_text(text, encoding="utf-8")
        return kept
