"""A table may name any path; only ordinary picture files inside its folder are read."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from tgo.pipeline.sources import pictures
from tgo.pipeline.sources.image_table import Source, natural_key
from tgo.pipeline.sources.pictures import Member, Pictures, Unusable
from tgo.pipeline.sources.samples import open_samples


def why(location: pictures.Location, folder: Path | None = None) -> str:
    with pytest.raises(OSError) as caught:  # noqa: PT011
        Pictures(folder=folder).read(location)
    return caught.value.strerror or str(caught.value)


def test_devices_pipes_folders_and_giants_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "fifo")  # opening it would wait for ever
    (tmp_path / "big").write_bytes(b"12345")
    monkeypatch.setattr(pictures, "MAX_BYTES", 4)
    assert why(tmp_path / "fifo") == "is no ordinary file"
    assert why(Path("/dev/zero")) == "is no ordinary file"
    assert "director" in why(tmp_path) or why(tmp_path) == "is no ordinary file"
    assert why(tmp_path / "big").startswith("is larger than")
    assert "no usable file name" in why(tmp_path / "a\0b")
    assert why(Unusable("reason")) == "reason"
    assert why(Member(tmp_path / "big", 3, 4)) == "the tar file ends within it"


@pytest.mark.parametrize("name", ["../secret.png", "/etc/hostname", "link.png"])
def test_paths_out_of_the_folder_are_read_only_when_asked_for(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(b"x")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    location = pictures.locate(folder, name)
    assert "lies outside" in why(location, folder)
    assert Pictures().read(location)


def test_names_of_windows_and_macos(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    composed = unicodedata.normalize("NFC", "café.png")
    (tmp_path / "sub" / composed).write_bytes(b"x")
    for name in (f"sub\\{composed}", unicodedata.normalize("NFD", f"sub/{composed}")):
        assert Pictures().read(pictures.locate(tmp_path, name)) == b"x"


def test_addresses_and_base64_are_named_as_such(tmp_path: Path) -> None:
    assert "address on the web" in why(pictures.locate(tmp_path, "https://example.org/a.png"))
    assert "base64" in why(pictures.locate(tmp_path, "iVBORw0KGgo" * 30))


def test_files_beside_a_list_of_lines_are_in_natural_order(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(12):
        (folder / f"{number}.png").write_bytes(b"x")
    (folder / os.fsdecode(b"caf\xe9.png")).write_bytes(b"x")
    lines = [f"prompt {number}" for number in range(12)]
    (tmp_path / "p.txt").write_text("\n".join([*lines, "last"]))
    samples = open_samples(Source(str(folder)), tmp_path / "p.txt")
    assert [samples[n].prompt for n in range(12)] == lines
    assert [samples[n].id for n in (2, 10, 12)] == ["2.png", "10.png", "caf\\xe9.png"]
    assert natural_key(Path("2.png")) < natural_key(Path("10.png"))
