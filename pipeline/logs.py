"""Where log messages of the command line go: results to stdout, warnings to stderr.

Modules log with `logging.getLogger(__name__)` and print nothing; a program that imports `tgo` as a
library decides itself what becomes of these messages.
"""

from __future__ import annotations

import logging
import sys

from tgo.pipeline.wording import harmless


class _Console(logging.Handler):
    """One line a message; the streams are looked up late, since callers may replace them."""

    def emit(self, record: logging.LogRecord) -> None:
        text = harmless(self.format(record))
        if record.levelno >= logging.WARNING:
            print(f"{record.levelname.lower()}: {text}", file=sys.stderr, flush=True)
        else:
            print(text, flush=True)


_console = _Console()
_OPTIONAL_PARTS = (
    "bitsandbytes",
    "diffusers.quantizers.torchao.torchao_quantizer",
    "torch.utils._pytree",
)
"""Loggers that warn, while libraries load, of optional parts that nothing here uses."""


def configure(level: int = logging.INFO) -> None:
    """Show messages of the logger `tgo` from `level` on; silence warnings about optional parts."""
    logger = logging.getLogger("tgo")
    logger.setLevel(level)
    if _console not in logger.handlers:
        logger.addHandler(_console)
    for name in _OPTIONAL_PARTS:
        logging.getLogger(name).setLevel(logging.ERROR)


def note(text: str) -> None:
    """A line for a person who waits, to stderr: it is no result. Silent with `-q`."""
    if logging.getLogger("tgo").isEnabledFor(logging.INFO):
        print(harmless(text), file=sys.stderr, flush=True)
