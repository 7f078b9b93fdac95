"""Why a file could not be read: missing, damaged, or a disk that refuses it just now."""

from __future__ import annotations

import errno
from pathlib import Path

from tgo.pipeline.errors import DamagedError, InputError

_ABSENT = (errno.ENOENT, errno.ENOTDIR)


def is_refusal(error: Exception) -> bool:
    """Whether the operating system refused to read (EACCES, EIO, ESTALE, EMFILE, ...).

    Libraries raise OSError without a number for content that they cannot parse.
    """
    return isinstance(error, OSError) and error.errno not in (None, *_ABSENT)


def explain(path: Path, error: Exception, remedy: str) -> InputError:
    """The error to raise for a file that could not be read or parsed.

    Args:
        path: The file.
        error: What reading it raised.
        remedy: What makes it anew, for a file that is missing or damaged.

    Returns:
        A `DamagedError` where the content is at fault, else an `InputError`.
    """
    if isinstance(error, OSError) and error.errno in _ABSENT:
        return InputError(f"{path}: is missing; {remedy}")
    if is_refusal(error):
        reason = getattr(error, "strerror", None) or short(error)
        return InputError(
            f"{path}: cannot be read ({reason}); nothing was changed. Mend the disk, its "
            "permissions or its limits and run the same command again"
        )
    return DamagedError(f"{path}: is truncated or damaged ({short(error)}); {remedy}")


def short(error: Exception) -> str:
    """An error's text in one line of at most 160 characters."""
    return " ".join(str(error).split())[:160] or type(error).__name__
