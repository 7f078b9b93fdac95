from __future__ import annotations

import hashlib
from pathlib import Path

from tgo.rewards.checksum import file_sha256


def test_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert file_sha256(tmp_path / "x") == hashlib.sha256(b"abc").hexdigest()
