"""The one error this room raises for files and inputs that it refuses."""

from __future__ import annotations


class CheckpointError(ValueError):
    """A checkpoint, configuration or tokenizer that cannot be scored with.

    The message is one line that names the file or key and the remedy.
    """
