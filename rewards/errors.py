"""What this room raises for files and inputs that it refuses; each message is one line."""

from __future__ import annotations


class Stopped(SystemExit):
    """A signal ends the process: no doing of what runs just now."""


class RewardError(ValueError):
    """Scoring cannot go on; the message names the file, key or size, and the remedy."""


class CheckpointError(RewardError):
    """A checkpoint, configuration or tokenizer that cannot be scored with."""


class PictureError(RewardError):
    """An image file that cannot be scored: broken, animated, too large, not 8-bit, no image."""


class OutOfMemoryError(RewardError):
    """A batch that does not fit; the message names the batch size that does."""
