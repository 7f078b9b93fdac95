"""The log file of a run, and the timings beside it.

The lines are held in memory and are part of every checkpoint; the file is a copy for others to
read, written anew with each line. So whoever removes or replaces the file meanwhile (DVC removes
the outputs of a stage before it runs it) shortens no log, and a file that shares its blocks with a
cache is never written through.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from tgo.pipeline.storage.atomic import replacing

if TYPE_CHECKING:
    from pathlib import Path

    from tgo.trainer.loggers import Loggers
    from tgo.trainer.speed import Speed


class TrainLog:
    """The log of a run, which begins with ``text``, that of a checkpoint.

    Timings go beside it, and each line with its timing to ``loggers``, earlier ones first.
    """

    def __init__(self, path: Path, text: str, loggers: Loggers) -> None:
        self._path, self._loggers = path, loggers
        self._timing_path = path.with_name("train_timing.jsonl")
        self.lines: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()]
        """All lines so far."""
        self._timings = self._earlier_timings()
        self._write_files()
        for line in self.lines:
            loggers.line(line | self._timings.get(line["step"], {}))
        self._clock = time.monotonic()

    @property
    def text(self) -> str:
        """All lines as the file has them."""
        return _text(self.lines)

    def pause(self, seconds: float) -> None:
        """Leave out of the next line's timing what was no training."""
        self._clock += seconds

    def write(self, line: dict[str, Any], images: int, speed: Speed) -> dict[str, float | None]:
        """Append a line, and give it to the loggers with its timing.

        Args:
            line: what the line says, ``step`` among it.
            images: images trained on since the line before.
            speed: turns them and the seconds since then into figures.

        Returns:
            The line's timing, as `Speed.of` gives it.

        Raises:
            InputError: the disk is full or forbids it; the lines stay in the next checkpoint.
        """
        now = time.monotonic()
        seconds, self._clock = now - self._clock, now
        timing = speed.of(images, seconds)
        self.lines.append(line)
        self._timings[line["step"]] = {"step": line["step"], **timing}
        self._write_files()
        self._loggers.line(line | timing)
        return timing

    def _write_files(self) -> None:
        timings = list(self._timings.values())
        for path, lines in ((self._path, self.lines), (self._timing_path, timings)):
            with replacing(path) as file:
                file.write(_text(lines).encode())

    def _earlier_timings(self) -> dict[int, dict[str, Any]]:
        """The timings of the lines there are, one each, by step."""
        if not self._timing_path.is_file():
            return {}
        steps = {line["step"] for line in self.lines}
        texts = self._timing_path.read_text(encoding="utf-8", errors="replace").splitlines()
        entries = [_entry(text) for text in texts]
        return {entry["step"]: entry for entry in entries if entry.get("step") in steps}


def _text(lines: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(line) + "\n" for line in lines)


def _entry(text: str) -> dict[str, Any]:
    """A line of timings; empty for one that is damaged."""
    try:
        entry = json.loads(text)
    except ValueError:
        return {}
    return entry if isinstance(entry, dict) else {}
