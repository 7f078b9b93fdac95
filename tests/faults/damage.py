"""Damages files of every kind that the system reads, and counts what comes of it.

    make faults                     2,000 damaged files, under a minute
    make faults TRIES=100000        the long form

Each try copies one intact file, damages it (cut off, bits flipped, bytes zeroed, inserted or
removed, replaced by noise, emptied; text also with one value exchanged), and reads it as a stage
would. A damaged file must be refused in one line that names it (a picture: that says why, for its
row), or be read: as before, or, where no checksum guards it, as the other valid content it now has.
Anything else is a fault, is printed with its seed, and makes the exit status 1: another exception,
more than one line, other rows of a shard, or a read of more than 20 seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.scores import write_scored
from tests.settings import changed
from tests.workspace import ROOT
from tgo.pipeline.config import settings
from tgo.pipeline.errors import InputError
from tgo.pipeline.labelling import label
from tgo.pipeline.sources import prompts, tables
from tgo.pipeline.storage import embeddings, label_record, results, shards
from tgo.pipeline.tools import preset
from tgo.rewards import pictures, weight_files
from tgo.rewards.errors import PictureError, RewardError

SECONDS = 20
Read = Callable[[Path], Any]


class Kind(NamedTuple):
    """A kind of file: an intact one, relative to the working directory, and how it is read."""

    path: Path
    read: Read
    sealed: bool = False
    """Whether checksums protect the content, so that a read must return the original."""


class HangError(Exception):
    """A read took longer than `SECONDS`."""


def main() -> None:
    """The command line; see the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tries", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    signal.signal(signal.SIGALRM, _hang)
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        faults = campaign(intact_files(), options.tries, options.seed)
    for line in faults:
        print(line)
    sys.exit(1 if faults else 0)


def intact_files() -> dict[str, Kind]:
    """One small file of every kind, written into the working directory."""
    rng = np.random.default_rng(0)
    data, reports = Path("data"), Path("reports")
    write_scored(data / "scored", rng.normal(size=12).astype(np.float32))
    scored = shards.shard_paths(data / "scored")
    label.run(changed({"label": {"reward": "clip"}, "rewards": {"clip": "none"}}))
    reports.mkdir(exist_ok=True)
    row = {"base": 1.0, "tuned": 2.0, "difference": 1.0, "low": 0.5, "high": 1.5}
    (reports / "evaluation.json").write_text(
        json.dumps({"seen": {"clip": row}, "generator": {"sets": {"seen": "x"}}})
    )
    lines = [json.dumps({"step": step, "loss": 0.5, "epoch": 0}) for step in (10, 20)]
    (reports / "train_log.jsonl").write_text("\n".join(lines) + "\n")
    shutil.copy(ROOT / "params.yaml", "params.yaml")
    shutil.copytree(ROOT / "presets", "presets")
    texts = [{"id": str(n), "prompt": f"a red circle {n}", "domain": "é"} for n in range(8)]
    Path("list.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in texts))
    Path("list.txt").write_text("a red circle\nein blaues Quadrat\n")
    Path("table.csv").write_text('file_name,prompt,rating\na.png,"a, b",3\nb.png,c,4.5\n')
    Path("table.tsv").write_text("file_name\tprompt\nb.png\tc\n")
    weights = {"a.weight": torch.randn(4, 3), "a.bias": torch.zeros(4)}
    save_file(weights, "model.safetensors")
    torch.save(weights, "model.pt")
    torch.save({"state_dict": weights}, "model.pth", _use_new_zipfile_serialization=False)
    Path("config.json").write_text(json.dumps({"width": 4, "layers": [1, 2], "name": "x"}))
    embeddings.write(
        Path("embedded.safetensors"),
        embeddings.Embeddings(
            {"embeddings": torch.randn(3, 2, 4)}, {"embeddings": torch.ones(2, 4)}
        ),
        ["a", "b", "c"],
    )
    for name in ("png", "jpeg", "webp", "bmp"):
        pixels = rng.integers(0, 255, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(f"picture.{name}")
    kinds: dict[str, Kind] = {
        "params.yaml": Kind(Path("params.yaml"), settings.load),
        "preset": Kind(Path("presets/ci.yaml"), _apply_preset),
        "prompts .jsonl": Kind(Path("list.jsonl"), _prompts),
        "prompts .txt": Kind(Path("list.txt"), _prompts),
        "table .csv": Kind(Path("table.csv"), _table),
        "table .tsv": Kind(Path("table.tsv"), _table),
        "scored shard": Kind(scored[0], _shard, sealed=True),
        "labelled shard": Kind(shards.shard_paths(data / "labelled")[0], _shard, sealed=True),
        "threshold.json": Kind(data / "labelled/threshold.json", label_record.read),
        "evaluation.json": Kind(reports / "evaluation.json", lambda _: results.evaluation()),
        "train_log.jsonl": Kind(reports / "train_log.jsonl", lambda _: results.train_log()),
        "prompt embeddings": Kind(Path("embedded.safetensors"), embeddings.read),
        "weights .safetensors": Kind(Path("model.safetensors"), weight_files.read_tensors),
        "weights .pt": Kind(Path("model.pt"), weight_files.read_tensors),
        "weights .pth, legacy": Kind(Path("model.pth"), weight_files.read_tensors),
        "model config": Kind(Path("config.json"), weight_files.read_json),
    }
    for name in ("png", "jpeg", "webp", "bmp"):
        kinds[f"picture {name}"] = Kind(Path(f"picture.{name}"), pictures.decode)
    for name, kind in kinds.items():
        assert kind.read(kind.path) is not None, name
    return kinds


def campaign(kinds: dict[str, Kind], tries: int, seed: int) -> list[str]:
    """Damage `tries` files in turns; prints the table, returns a line a fault."""
    found: dict[str, Counter[str]] = {name: Counter() for name in kinds}
    faults = []
    for number in range(tries):
        name = list(kinds)[number % len(kinds)]
        kind, chance = kinds[name], random.Random(f"{seed}-{number}")
        intact = kind.path.read_bytes()
        expected = kind.read(kind.path) if kind.sealed else None
        kind.path.write_bytes(damaged(intact, chance))
        outcome, detail = attempt(kind, expected)
        kind.path.write_bytes(intact)
        found[name][outcome] += 1
        if outcome == "fault":
            faults.append(f"seed {seed}, try {number}, {name}: {detail}")
    print(f"{'file':24}{'tries':>8}{'refused':>10}{'read':>8}{'faults':>8}")
    for name, count in (*found.items(), ("all", sum(found.values(), Counter()))):
        numbers = (count.total(), count["refused"], count["read"], count["fault"])
        print(f"{name:24}{numbers[0]:8}{numbers[1]:10}{numbers[2]:8}{numbers[3]:8}")
    return faults


def attempt(kind: Kind, expected: Any = None) -> tuple[str, str]:
    """What reading a file gives: "refused", "read" or "fault", and why."""
    signal.alarm(SECONDS)
    try:
        value = kind.read(kind.path)
    except PictureError as error:
        return ("fault" if "\n" in str(error) else "refused"), str(error)
    except (InputError, RewardError) as error:
        line = str(error)
        if "\n" in line.strip() or kind.path.name not in line:
            return "fault", f"not one line that names the file: {line[:200]!r}"
        return "refused", line
    except Exception as error:  # noqa: BLE001 any other exception is a fault to report
        return "fault", f"{type(error).__name__}: {str(error)[:200]!r}"
    finally:
        signal.alarm(0)
    if kind.sealed and value != expected:
        return "fault", "other content, read in silence"
    return "read", ""


def damaged(content: bytes, chance: random.Random) -> bytes:
    """The content with one kind of damage."""
    ways = (_cut, _flip, _zero, _insert, _remove, _noise, _empty, _exchange)
    return chance.choice(ways)(bytearray(content), chance)


def _cut(content: bytearray, chance: random.Random) -> bytes:
    return bytes(content[: chance.randrange(len(content))])


def _flip(content: bytearray, chance: random.Random) -> bytes:
    for _ in range(chance.choice((1, 1, 3, 20))):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    return bytes(content)


def _zero(content: bytearray, chance: random.Random) -> bytes:
    start = chance.randrange(len(content))
    length = min(chance.choice((1, 16, 512)), len(content) - start)
    content[start : start + length] = bytes(length)
    return bytes(content)


def _insert(content: bytearray, chance: random.Random) -> bytes:
    start = chance.randrange(len(content))
    content[start:start] = chance.choice((b"\0", b"\xff\xfe", b"\n", b"[" * 5000, b"9" * 6000))
    return bytes(content)


def _remove(content: bytearray, chance: random.Random) -> bytes:
    start = chance.randrange(len(content))
    del content[start : start + chance.choice((1, 7, 100))]
    return bytes(content)


def _noise(content: bytearray, chance: random.Random) -> bytes:
    return chance.randbytes(len(content))


def _empty(content: bytearray, chance: random.Random) -> bytes:
    return b""


def _exchange(content: bytearray, chance: random.Random) -> bytes:
    """One word of a text becomes a value of another type; other files get bits flipped."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return _flip(content, chance)
    parts = text.split(" ")
    parts[chance.randrange(len(parts))] = chance.choice(
        ("null", "true", "-1", "1e999", ".nan", '"x"', "[]", "{}", "9" * 400, "\u2028")
    )
    return " ".join(parts).encode()


def _apply_preset(path: Path) -> list[str]:
    intact = Path("params.yaml").read_bytes()
    try:
        return preset.apply(path.stem, path.parent, Path("params.yaml"))
    finally:
        Path("params.yaml").write_bytes(intact)


def _prompts(path: Path) -> list[prompts.Prompt]:
    return prompts.read(path)


def _table(path: Path) -> list[Any]:
    return list(tables.read(str(path)).records)


def _shard(path: Path) -> Any:
    shards.read_metadata(path)
    return shards.read_shard(path, ["id"])


def _hang(number: int, frame: FrameType | None) -> NoReturn:
    raise HangError(f"longer than {SECONDS} s")


if __name__ == "__main__":
    main()
