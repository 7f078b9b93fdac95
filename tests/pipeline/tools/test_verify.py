from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from tests import workspace
from tests.stage_one import PROMPTS, score_into
from tgo.pipeline import layout
from tgo.pipeline.cli import app
from tgo.pipeline.config import settings
from tgo.pipeline.errors import InputError
from tgo.pipeline.labelling import label
from tgo.pipeline.storage import manifest, shards
from tgo.pipeline.tools import verify


@pytest.fixture
def place(
    tmp_path: Path,
    tiny_family: object,
    tiny_panel: object,
    monkeypatch: pytest.MonkeyPatch,
) -> settings.Settings:
    """A working directory after stages one and two."""
    workspace.fill(tmp_path, "x/y/z", {"clip": "x", "aesthetic": "y"})
    monkeypatch.chdir(tmp_path)
    score_into(Path("data"), tiny_family, tiny_panel, PROMPTS[:6])
    Path("data/embeddings").rename(layout.EMBEDDINGS)
    found = settings.load("params.yaml")
    label.run(found)
    return found


FIRST = layout.SCORED / shards.shard_name(0, 2)


def problems(place: settings.Settings, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    with pytest.raises(InputError, match="problems found"):
        verify.run(place)
    return capsys.readouterr().out


def test_what_the_stages_wrote_is_right(
    place: settings.Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    verify.run(place)
    assert capsys.readouterr().out == "data/scored: ok\ndata/labelled: ok\n"


def test_scripts_read_json_and_the_exit_status(place: settings.Settings) -> None:
    sound = CliRunner().invoke(app, ["verify", "--json"])
    assert sound.exit_code == 0
    assert json.loads(sound.stdout) == {str(layout.SCORED): [], str(layout.LABELLED): []}
    FIRST.write_bytes(FIRST.read_bytes()[:-9])
    damaged = CliRunner().invoke(app, ["verify", "--json"])
    assert damaged.exit_code == 2
    assert FIRST.name in json.loads(damaged.stdout)[str(layout.SCORED)][0]


def test_every_kind_of_damage_is_named(
    place: settings.Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    data = bytearray(FIRST.read_bytes())
    data[data.index(b"IDAT") + 12] ^= 1
    FIRST.write_bytes(data)
    assert f"{FIRST}: is truncated or damaged" in problems(place, capsys)
    FIRST.unlink()
    told = problems(place, capsys)
    assert f"{FIRST.name} is missing" in told
    assert f"{FIRST}: is in the manifest, but not there" in told


def test_what_a_page_checksum_cannot_see_the_manifest_does(
    place: settings.Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    table = shards.read_shard(FIRST)
    at = table.column_names.index("clip")
    table = table.set_column(at, table.field(at), pa.array([0.5] * table.num_rows, pa.float32()))
    shards.write_shard(FIRST, table)
    told = problems(place, capsys)
    assert f"{FIRST}: its bytes are not those of the manifest" in told
    assert f"{layout.LABELLED}: its labels were made of other scores" in told
    (layout.SCORED / manifest.NAME).unlink()
    assert "is missing or damaged" in problems(place, capsys)
    FIRST.rename(layout.SCORED / "other.parquet")
    assert f"{layout.SCORED}/other.parquet: does not belong there" in problems(place, capsys)


def test_embeddings_labels_and_record_are_checked_too(
    place: settings.Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    embedded = layout.EMBEDDINGS / f"{FIRST.stem}.safetensors"
    embedded.write_bytes(embedded.read_bytes()[:-1] + b"\x07")
    assert f"{embedded}: is missing, or not the file" in problems(place, capsys)
    facts = json.loads(layout.THRESHOLD.read_text())
    layout.THRESHOLD.write_text(json.dumps({**facts, "percentile": 40.0}))
    assert "made with label.percentile = 40.0, and params.yaml says 50.0" in problems(place, capsys)
    layout.THRESHOLD.unlink()
    assert f"{layout.THRESHOLD}: is missing" in problems(place, capsys)


def test_shards_set_aside_in_an_evaluation_are_no_problem(
    place: settings.Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    old = layout.EVALUATED / "base" / ".seen.aside" / "0123456789abcdef"
    old.mkdir(parents=True)
    shutil.copy(FIRST, old)
    assert verify.scored_folders() == [layout.SCORED]
    verify.run(place)
    assert "problems" not in capsys.readouterr().out
