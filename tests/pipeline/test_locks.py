from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import locks
from pipeline.errors import InputError

HOLDER = """
import sys, time
from pathlib import Path
from pipeline.locks import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_run_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "scored"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(InputError) as caught, locks.hold(folder):
            pass
        assert f"{folder}: is being written by process {holder.pid} on " in str(caught.value)
        with pytest.raises(InputError), locks.hold(folder):  # the first attempt changed nothing
            pass
    finally:
        holder.kill()
        holder.wait()
    with locks.hold(folder):  # a killed holder leaves a file, not a lock
        assert str(os.getpid()) in (tmp_path / ".scored.lock").read_text()
    assert not folder.exists()
