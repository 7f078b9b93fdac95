"""The one exception that ends a command with a single clear line."""

from __future__ import annotations


class InputError(Exception):
    """Bad input or a bad state on disk that the user can mend.

    The message is one line that names the file or key and says what to do about it; the
    command line prints it as ``tgo: error: <line>`` and exits with status 2.
    """


class DamagedError(InputError):
    """A file whose bytes are not those that were written; whoever writes it may make it again.

    A file that cannot be read just now (permissions, a network disk that fails) is no such file:
    that is a plain `InputError`, and nothing must be replaced because of it.
    """
