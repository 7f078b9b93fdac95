"""The labelled rows on disk: scored shards, their labels and their prompt embeddings, joined.

Labels, weights and prompt numbers of all rows are held in memory (some 32 bytes a row); latents
are read one row group at a time, and embeddings stay memory-mapped until a batch asks for them.

What is drawn is a *unit*: a row, or for objectives on pairs a winner and its loser, two rows of
one prompt that lie side by side wherever rows are listed.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from safetensors import safe_open

from tgo.pipeline.errors import InputError
from tgo.pipeline.storage.atomic import canonical
from tgo.pipeline.storage.embeddings import is_intact, path_for, tensors_of
from tgo.pipeline.storage.shards import read_latents, read_metadata, read_shard, shard_paths

if TYPE_CHECKING:
    from tgo.pipeline.generators.base import Conditions
    from tgo.trainer.objectives.base import PerRowValue, Rows


@dataclass(frozen=True)
class RowGroup:
    """The usable rows of one row group of a shard; all arrays ``[n]``, pairs side by side."""

    shard: int
    """Which shard, from 0."""
    index: int
    """Which row group of that shard, from 0."""
    first: int
    """How many usable rows lie before it in all."""
    places: np.ndarray
    """Where the usable rows lie inside the row group, int64 (for single rows ascending)."""
    target: np.ndarray
    """Target in [0, 1], float32; in pairs 1 for the winner and 0 for the loser."""
    weight: np.ndarray
    """Confidence weight, float32."""
    prompt: np.ndarray
    """Row of the shard's embedding table, int64."""
    score: np.ndarray
    """The feedback, float32."""
    per_row_value: np.ndarray
    """The objective's own number (0 where it wants none), float32."""

    @property
    def rows(self) -> np.ndarray:
        """Numbers of the rows among all usable ones, int64."""
        return np.arange(self.first, self.first + len(self.places))


class LabelledRows:
    """All rows that may be trained on: those with a label (excluded rows never enter).

    ``rows`` says which of them, and whether as pairs; ``per_row_value`` turns the scores of all
    that enter into one number for each. Raises InputError when labels are missing or belong to
    other shards, a prompt has no embedding, or nothing is left to train on.
    """

    def __init__(
        self,
        scored: Path,
        labelled: Path,
        embeddings: Path,
        *,
        rows: Rows = "labelled",
        per_row_value: PerRowValue | None = None,
    ) -> None:
        self._paths = shard_paths(scored)
        self._tables = [PromptTable(path_for(embeddings, path), path) for path in self._paths]
        self._rows = rows
        self._negative_tables = 0
        self.unit = 2 if rows.endswith("pairs") else 1
        """Rows that are drawn together."""
        self.latent_dtype = np.dtype(read_metadata(self._paths[0])["tgo.latents"]["dtype"])
        self._shapes: list[tuple[int, ...]] = []  # of latents, by shard
        self.groups: list[RowGroup] = []
        digest = hashlib.sha256()
        for shard, path in enumerate(self._paths):
            self._append(shard, labelled / path.name, digest.update)
        if per_row_value is not None:
            self._set_per_row_values(per_row_value)
        if per_row_value is not None or self.unit > 1:  # else scores count through labels
            digest.update(b"".join(group.score.tobytes() for group in self.groups))
        self.sizes = [len(group.places) // self.unit for group in self.groups]
        if not any(self.sizes):
            what = "pairs of a prompt's images with different scores" if self.unit > 1 else "rows"
            raise InputError(
                f"{labelled}: holds no {what} to train on; run `tgo label` on more images, or "
                "choose another train.objective"
            )
        self._labelled = labelled
        self._needs_both_classes = rows == "labelled" and per_row_value is None
        self._require_both_classes()
        self.fingerprint = digest.hexdigest()
        """sha256 of what the rows are: the shards' own fingerprints, ids, labels and weights."""

    @property
    def shards(self) -> list[tuple[Path, PromptTable]]:
        """Every scored shard with the conditions of its prompts."""
        return list(zip(self._paths, self._tables, strict=False))

    @property
    def unconditional(self) -> Conditions:
        """The empty prompt's conditions ``[...]``, as stored."""
        return self._tables[0].unconditional

    @property
    def latent_shapes(self) -> set[tuple[int, ...]]:
        """The shapes of latents that the shards hold."""
        return set(self._shapes)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """The one shape of these rows' latents; see `by_shape`."""
        (shape,) = {self._shapes[group.shard] for group in self.groups}
        return shape

    def by_shape(self) -> list[LabelledRows]:
        """The rows of each shape of latents, which keep their numbers."""
        found = []
        for shape in dict.fromkeys(self._shapes[group.shard] for group in self.groups):
            part = copy.copy(self)
            part.groups = [group for group in self.groups if self._shapes[group.shard] == shape]
            part.sizes = [len(group.places) // self.unit for group in part.groups]
            found.append(part)
        return found

    def latents(self, number: int) -> np.ndarray:
        """Latents ``[n, *latent_shape]`` of the usable rows of row group ``number``, as stored."""
        group = self.groups[number]
        return read_latents(self._paths[group.shard], group.index, group.places)

    def condition_negatives(self, tables: Sequence[PromptTable]) -> None:
        """From now on give rows with a target below 0.5 the embeddings of ``tables``, by shard.

        They list the same prompts in the same order as the shards' own.
        """
        self._tables = [*self._tables[: len(self._paths)], *tables]
        self._negative_tables = len(self._paths)

    def tables_of(self, number: int) -> np.ndarray:
        """Which embedding table each usable row of row group ``number`` takes, int64 ``[n]``."""
        group = self.groups[number]
        return group.shard + self._negative_tables * (group.target < 0.5)

    def conditions(self, table: np.ndarray, prompt: np.ndarray, *, pin: bool = False) -> Conditions:
        """Conditions ``[B, ...]``, as stored, of rows given by table and prompt number."""
        found = {
            name: torch.empty((len(table), *one.shape), dtype=one.dtype, pin_memory=pin)
            for name, one in self.unconditional.items()
        }
        for number in np.unique(table):
            here = np.flatnonzero(table == number)
            for name, value in self._tables[number].conditions.items():
                found[name][here] = value[prompt[here]]
        return found

    def _append(self, shard: int, labels_path: Path, digest: Callable[[bytes], None]) -> None:
        """Add a shard's row groups, once both files are known to tell of the same rows."""
        path = self._paths[shard]
        if not labels_path.exists():
            raise InputError(f"{labels_path}: is missing; run `tgo label` first")
        rows = read_shard(path, ["id", "prompt_id"])
        labels = read_shard(labels_path)
        if not rows["id"].equals(labels["id"]):
            raise InputError(f"{labels_path}: its ids are not those of {path}; run `tgo label`")
        label, weight = labels["label"].to_numpy(), labels["weight"].to_numpy()
        score = labels["score"].to_numpy()
        usable = label > 0.5 if self._rows == "positives" else label >= 0
        if not np.isfinite(weight[usable]).all():
            raise InputError(f"{labels_path}: weight is NaN or infinite; run `tgo label` again")
        prompt = self._tables[shard].find(rows["prompt_id"].combine_chunks())
        sizes = _row_group_sizes(path)
        metadata = read_metadata(path)
        self._shapes.append(tuple(metadata["tgo.latents"]["shape"]))
        images = metadata["tgo.fingerprint"]["images"]  # scores may change: not used
        digest(canonical([images, sizes, rows["id"].to_pylist()]).encode())
        digest(label.tobytes() + weight.tobytes())
        targets = label
        if "target" in labels.column_names:  # ordinal labels grade what 0 and 1 only part
            targets = labels["target"].to_numpy()
            digest(targets.tobytes())
        start = 0
        for index, size in enumerate(sizes):
            places = np.flatnonzero(usable[start : start + size])
            if self.unit > 1:
                extreme = self._rows == "extreme pairs"
                places = pair(score[start + places], prompt[start + places], places, extreme)
            at = start + places
            before = self.groups[-1] if self.groups else None
            first = before.first + len(before.places) if before else 0
            target = targets[at].astype(np.float32)
            if self.unit > 1:
                target = np.tile(np.array([1, 0], np.float32), len(at) // 2)
            none = np.zeros(len(at), np.float32)
            columns = (target, weight[at], prompt[at], score[at], none)
            self.groups.append(RowGroup(shard, index, first, places, *columns))
            start += size

    def require_different_scores(self) -> None:
        """InputError where all scores are equal, so that none is better than another."""
        scores = np.concatenate([group.score for group in self.groups])
        if scores.min() == scores.max():
            raise InputError(
                f"train.objective: learns from differences of scores, and all {len(scores)} are "
                f"{scores[0]:g}; choose another label.reward, or objective sft"
            )

    def of_class(self, positive: bool) -> LabelledRows:
        """The rows with a target of at least 0.5, or those below; numbered after one another."""
        first = self.groups[0].first + (0 if positive else self._count(True))
        return self._part(lambda group: (group.target >= 0.5) == positive, first)

    def apart(self, share: float) -> tuple[LabelledRows, LabelledRows]:
        """The rows without a share of the prompts, and those of that share.

        A prompt is chosen by a hash of its id, so whatever else changes it stays on its side.
        InputError where what is left has one class, and two are needed.
        """
        chosen = [np.array([_hash(one) < share for one in table.ids]) for _, table in self.shards]
        held = self._part(lambda group: chosen[group.shard][group.prompt])
        kept = self._part(lambda group: ~chosen[group.shard][group.prompt])
        if any(kept.sizes):
            kept._require_both_classes()
        return kept, held

    def _part(self, choose: Callable[[RowGroup], np.ndarray], first: int = 0) -> LabelledRows:
        """The rows for which ``choose`` of their group is true, numbered from ``first`` on."""
        found = copy.copy(self)
        found.groups = []
        for group in self.groups:
            here = np.flatnonzero(choose(group))
            arrays: dict[str, Any] = {
                name: value[here]
                for name, value in vars(group).items()
                if isinstance(value, np.ndarray)
            }
            found.groups.append(replace(group, first=first, **arrays))
            first += len(here)
        found.sizes = [len(group.places) // self.unit for group in found.groups]
        return found

    def _require_both_classes(self) -> None:
        if self._needs_both_classes and not (self._count(True) and self._count(False)):
            only = "positive" if self._count(True) else "negative"
            raise InputError(
                f"{self._labelled}: every label is {only}, and this train.objective learns from "
                "both classes; `tgo label` says which setting parts them (label.ties, "
                "label.percentile, label.reward)"
            )

    def _count(self, positive: bool) -> int:
        return sum(int(((group.target >= 0.5) == positive).sum()) for group in self.groups)

    def _set_per_row_values(self, per_row_value: PerRowValue) -> None:
        """Ask once for the numbers of all rows, prompts of different shards kept apart."""
        score = np.concatenate([group.score for group in self.groups]).astype(np.float64)
        before = np.cumsum([0, *(len(table) for table in self._tables)])
        prompt = np.concatenate([before[group.shard] + group.prompt for group in self.groups])
        if not np.isfinite(score).all():
            raise InputError(
                "train.objective: uses the scores, and a labelled row has none; "
                "run `tgo label` again"
            )
        values = per_row_value(score, prompt).astype(np.float32)
        ends = np.cumsum([len(group.places) for group in self.groups])
        parts = np.split(values, ends[:-1])
        self.groups = [
            replace(group, per_row_value=part)
            for group, part in zip(self.groups, parts, strict=True)
        ]


def pair(score: np.ndarray, prompt: np.ndarray, places: np.ndarray, extreme: bool) -> np.ndarray:
    """Winners and losers side by side, ``[2 P]`` of ``places``, from rows of one row group.

    A pair is two rows of one prompt with different scores; ``extreme`` takes only the best and
    the worst of each prompt. A prompt that a row group's end divides gives the pairs inside each
    part. NaN wins and loses against nothing.
    """
    found: list[np.ndarray] = []
    for number in np.unique(prompt):
        rows = np.flatnonzero((prompt == number) & ~np.isnan(score))
        rows = rows[np.argsort(-score[rows], kind="stable")]
        if extreme:
            rows = rows[[0, -1]] if len(rows) > 1 else rows[:0]
        upper, lower = np.triu_indices(len(rows), 1)
        better = score[rows[upper]] > score[rows[lower]]
        found.append(np.stack([rows[upper[better]], rows[lower[better]]], axis=1).ravel())
    return places[np.concatenate(found)] if found else places[:0]


class PromptTable:
    """The conditions of one shard's prompts, memory-mapped.

    ``sha256`` is what the file must have; None takes what the shard recorded.
    """

    def __init__(self, path: Path, shard: Path, sha256: str | None = None) -> None:
        self._path = path
        digest = sha256 or read_metadata(shard)["tgo.embeddings"]["sha256"]
        if not is_intact(path, digest):
            raise InputError(
                f"{path}: is missing, damaged or not of {shard}; run `tgo score`, which makes it"
            )
        with safe_open(path, framework="pt") as file:
            self.ids: list[str] = json.loads(file.metadata()["prompt_ids"])
            self.conditions, self.unconditional = tensors_of(file)
            """By name, of the prompts ``[prompts, ...]`` and of the empty one ``[...]``."""

    def __len__(self) -> int:
        return len(self.ids)

    def find(self, prompt_ids: pa.Array) -> np.ndarray:
        """Row of each prompt in the table, int64 ``[n]``."""
        found = pc.index_in(prompt_ids, value_set=pa.array(self.ids, pa.string()))
        if found.null_count:
            missing = prompt_ids.filter(found.is_null())[0]
            raise InputError(f"{self._path}: has no prompt {missing}; run `tgo score` again")
        return found.to_numpy().astype(np.int64)


def _hash(prompt_id: str) -> float:
    """A number in [0, 1) that follows from a prompt's id alone."""
    return int.from_bytes(hashlib.sha256(prompt_id.encode()).digest()[:8]) / 2**64


def _row_group_sizes(path: Path) -> list[int]:
    metadata = pq.read_metadata(path)
    return [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]
