"""threshold.json, and whether a labelled folder is whole and made with the settings at hand.

`tgo label` writes one identity into every labelled shard and, last, into threshold.json. A folder
without the record, with shards of two identities, or of other settings or scores is refused by
every stage that reads it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tgo.pipeline.config.label_settings import Label
from tgo.pipeline.documents import read_json
from tgo.pipeline.errors import InputError
from tgo.pipeline.storage import shards
from tgo.pipeline.storage.atomic import canonical

NAME = "threshold.json"
WITHOUT_EFFECT = ("earlier",)
"""Settings that change no label: the record an earlier threshold is compared with."""
_Number = Field(allow_inf_nan=False)
_Share = Field(ge=0, le=1)


class _Record(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)


class EarlierThreshold(_Record):
    """What `label.earlier` is compared by."""

    reward: str
    unit: str
    threshold: float = _Number


class GroupRecord(_Record):
    """Class balance of one group."""

    n: int = Field(ge=0)
    positives_share: float = _Share


class ShiftRecord(_Record):
    """The threshold against an earlier one."""

    earlier: float = _Number
    shift: float = _Number
    labels_changed_share: float = _Share
    outside_interval: bool


class ThresholdRecord(EarlierThreshold):
    """What the stages after `label` read of threshold.json; docs/stage_two.md lists all keys."""

    identity: str = Field(pattern="^[0-9a-f]{64}$")
    low: float = _Number
    high: float = _Number
    n: int = Field(ge=1)
    excluded: int = Field(ge=0)
    filtered: int = Field(ge=0)
    positives: int = Field(ge=0)
    positives_share: float = _Share
    score_mean: float = _Number
    score_std: float = _Number
    flips_in_interval: float = _Share
    weight_quantiles: dict[str, float]
    rewards: dict[str, dict[str, Any]]
    balance_column: str
    groups: dict[str, GroupRecord]
    groups_in_all: int
    agreement: dict[str, float]
    between_prompt_variance_share: float | None
    disagreement_with_prompt: float | None
    disagreement_with_oracle: float | None
    threshold_shift: ShiftRecord | None
    recommendation: str
    warnings: list[str]


def identity(scored: Sequence[Path], rule: Label) -> str:
    """What labels are made of, as a SHA-256: the rule, and the footer of every scored shard.

    A footer holds the sizes and statistics of every column, so that it changes with the scores.
    """
    digest = hashlib.sha256(canonical([_deciding(rule), list(rule.reward.items())]).encode())
    for path in [*scored, *(shards.shard_paths(Path(rule.proxy)) if rule.proxy else ())]:
        digest.update(f"{path.name}\n".encode())
        digest.update(_footer(path))
    return digest.hexdigest()


def read(
    path: Path,
    remedy: str = "run `tgo label` again",
    model: type[EarlierThreshold] = ThresholdRecord,
) -> dict[str, Any]:
    """Read and check a threshold.json.

    Args:
        path: the file.
        remedy: what to do about a bad file; ends the line of an error.
        model: the keys that it must have; others are kept unchecked.

    Returns:
        Everything that the file says.

    Raises:
        InputError: the file is missing, damaged or lacks a key.
    """
    found = read_json(path, remedy)
    try:
        model.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the file"
        raise InputError(f"{path}: {key}: {first['msg']}; {remedy}") from None
    assert isinstance(found, dict)
    return found


def written_by_label(labelled: Path) -> bool:
    """Whether `tgo label` wrote a folder or any shard in it; others may hold labels of any make."""
    metadata = map(shards.read_metadata, shards.shard_paths(labelled))
    return (labelled / NAME).exists() or any("tgo.label" in found for found in metadata)


def check_labels(scored: Path, labelled: Path, rule: Label) -> dict[str, Any]:
    """Check that a labelled folder is whole and made of these scores by this rule.

    Reads footers only.

    Args:
        scored: the folder of scored shards.
        labelled: the folder of labelled shards.
        rule: the settings of stage two.

    Returns:
        What threshold.json says.

    Raises:
        InputError: it is not; the line says which setting or shard differs, and what to run.
    """
    record = labelled / NAME
    if not record.exists():
        raise InputError(
            f"{record}: is missing; run `tgo label` (it was never run, or was stopped)"
        )
    found = read(record)
    for key, value in _deciding(rule).items():
        if found.get(key) != value:
            raise InputError(
                f"{labelled}: its labels were made with label.{key} = {_spelled(found.get(key))}, "
                f"and params.yaml says {_spelled(value)}; run `tgo label` (or `dvc repro`)"
            )
    paths = shards.shard_paths(scored)
    if found["identity"] != identity(paths, rule):
        raise InputError(
            f"{labelled}: its labels were made of other scores than those in {scored}; run "
            "`tgo label` (or `dvc repro`)"
        )
    if [path.name for path in shards.shard_paths(labelled)] != [path.name for path in paths]:
        raise InputError(f"{labelled}: its shards are not those of {scored}; run `tgo label`")
    for path in shards.shard_paths(labelled):
        if shards.read_metadata(path).get("tgo.label", {}).get("identity") != found["identity"]:
            raise InputError(
                f"{path}: its labels are of another run than {NAME}; run `tgo label` again"
            )
    return found


def _deciding(rule: Label) -> dict[str, Any]:
    """The settings that decide labels, as they stand in threshold.json."""
    values = rule.model_dump(exclude=set(WITHOUT_EFFECT))
    return values | {"reward": rule.name}


def _footer(path: Path) -> bytes:
    try:
        size = pq.read_metadata(path).serialized_size
        with path.open("rb") as file:
            file.seek(-(size + 8), 2)
            return file.read()
    except (pa.ArrowException, OSError) as error:
        raise shards.damaged(path, error) from None


def _spelled(value: Any) -> str:
    return "null" if value is None else str(value)
