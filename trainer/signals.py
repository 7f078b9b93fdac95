"""SIGTERM and SIGINT as a request: the step under way is finished and saved first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Whether a signal has asked the run to end."""

    received: signal.Signals | None = None


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """While the block runs, the first signal is noted instead of ending the process.

    From then on signals do what they did before, so that a second one ends at once.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():  # Python allows no handlers
        yield request
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: FrameType | None) -> None:
        request.received = signal.Signals(number)
        restore()

    for number in _SIGNALS:
        signal.signal(number, note)
    try:
        yield request
    finally:
        restore()
