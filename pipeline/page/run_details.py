"""How the run was made: its settings, what they change, checksums, and where it ran."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tgo.pipeline import layout
from tgo.pipeline.config.settings import Settings
from tgo.pipeline.documents import read_yaml
from tgo.pipeline.page.run_files import RunFiles
from tgo.pipeline.storage import shards, stage_log
from tgo.pipeline.wording import TITLES
from tgo.rewards.checksum import file_sha256

Rows = list[tuple[str, str]]


def changed(settings: Settings) -> list[tuple[str, str, str]]:
    """(key, value, value as shipped) of every setting that differs from presets/world.yaml."""
    path = layout.PRESETS / "world.yaml"
    if not path.is_file():
        return []
    shipped = _flat(read_yaml(path, "mend it, or remove it"))
    now = _flat(settings.model_dump(mode="json"))
    return [
        (key, _plain(now.get(key)), _plain(shipped.get(key)))
        for key in now
        if key in shipped and now[key] != shipped[key]
    ]


def groups(settings: Settings) -> list[tuple[str, Rows]]:
    """All settings as lists of (name, value): first the single ones, then group by group."""
    single: Rows = []
    found: list[tuple[str, Rows]] = [("run", single)]
    for name, value in settings.model_dump(mode="json").items():
        if isinstance(value, dict):
            found.append((name, [(key, _plain(item)) for key, item in _flat(value).items()]))
        else:
            single.append((name, _plain(value)))
    return found


def as_yaml(settings: Settings) -> str:
    """The settings as a params.yaml that gives this run again."""
    from ruamel.yaml import YAML

    text = io.StringIO()
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.dump(settings.model_dump(mode="json"), text)
    return text.getvalue()


def stages() -> tuple[list[dict[str, str]], Rows]:
    """(a row for every stage that told of itself, facts about the machine it ended on)."""
    lines = stage_log.read(layout.STAGES)
    rows = [
        {
            "stage": line["stage"],
            "date": line["began"],
            "duration": duration(line["seconds"]),
            "commit": line["commit"] or "unknown",
        }
        for line in lines.values()
    ]
    if not lines:
        return rows, []
    last = list(lines.values())[-1]
    machine = [("machine", last["machine"]), ("python", last["python"])]
    return rows, machine + list(last["versions"].items())


def duration(seconds: float) -> str:
    """Seconds in the two units that a person would use."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def provenance(run: RunFiles) -> list[dict[str, str]]:
    """What the page was made from: checkpoints as recorded in the shards, files as they lie."""
    facts = run.facts
    rows = [
        {"name": "Base model", "note": facts["base"], "sha256": facts["base_sha256"]},
        {"name": "Tuned model", "note": facts["tuned"], "sha256": facts["tuned_sha256"]},
    ]
    for name, model in {**run.threshold["rewards"], **run.models}.items():
        told = [model.get("version"), model.get("unit"), model.get("dtype")]
        note = ", ".join(str(part) for part in told if part)
        sha256 = model.get("checkpoint_sha256")
        rows.append({"name": TITLES[name], "note": note, "sha256": sha256 or ""})
    paths = shards.shard_paths(layout.LABELLED)
    note = f"{layout.LABELLED}, {len(paths)} files"
    rows.append({"name": "Labelled shards", "note": note, "sha256": _sha256(paths)})
    for title, path in (("Threshold", layout.THRESHOLD), ("Evaluation", layout.EVALUATION)):
        rows.append({"name": title, "note": str(path), "sha256": _sha256([path])})
    return rows


def _sha256(paths: Sequence[Path]) -> str:
    """Checksum of a file, or of the ``sha256sum`` listing of several."""
    digests = [file_sha256(path) for path in paths]
    if len(paths) == 1:
        return digests[0]
    listing = "".join(f"{d}  {p.name}\n" for d, p in zip(digests, paths, strict=True))
    return hashlib.sha256(listing.encode()).hexdigest()


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    return dict(_leaves(values, prefix))


def _leaves(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _plain(value: Any) -> str:
    """A value as params.yaml writes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)
