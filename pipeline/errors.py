"""The one exception that ends a command with a single clear line."""

from __future__ import annotations


class InputError(Exception):
    """Bad input or a bad state on disk that the user can mend.

    The message is one line that names the file or key and says what to do about it; the
    command line prints it as ``tgo: error: <line>`` and exits with status 2.
    """
