"""What the script `tgo` runs first: until commands handle signals, Ctrl-C ends the process at once.

Importing the command line takes a moment; a KeyboardInterrupt in there would be a traceback.
"""

from __future__ import annotations

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)

from tgo.pipeline.cli import main  # noqa: E402

if __name__ == "__main__":
    main()
