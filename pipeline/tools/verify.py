"""`tgo verify`: every byte the stages wrote, against checksums and against each other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tgo.pipeline import layout
from tgo.pipeline.config.settings import Settings
from tgo.pipeline.errors import InputError
from tgo.pipeline.labelling import label, labeller
from tgo.pipeline.scoring import sampling
from tgo.pipeline.storage import aside, embeddings, label_record, manifest, shards


def run(settings: Settings) -> None:
    """Check all folders of shards that there are; InputError if anything is wrong.

    Prints one line a folder and one a problem.
    """
    count = 0
    for folder, found in problems(settings):
        _tell(folder, found)
        if folder != layout.LABELLED:
            _tell_of_aside(folder)
        count += len(found)
    if count:
        raise InputError(
            f"{count} problems found; run the stages that write those files again "
            "(`dvc repro`), they keep what is right"
        )


def problems(settings: Settings) -> Iterator[tuple[Path, list[str]]]:
    """Every folder of shards that there is, with what is wrong in it, a line each.

    Raises InputError if there is none.
    """
    folders = scored_folders()
    for folder in folders:
        yield folder, list(scored_problems(folder, embeddings_of(folder)))
    labelled = shards.present(layout.LABELLED)
    if labelled:
        yield (
            layout.LABELLED,
            list(labelled_problems(layout.SCORED, layout.LABELLED, settings)),
        )
    if not folders and not labelled:
        raise InputError(f"{layout.SCORED}: there is nothing to verify yet; run `tgo score` first")


def scored_folders() -> list[Path]:
    """Every folder of scored shards: the training images and those of evaluations."""
    folders = {
        path.parent for root in (layout.EVALUATED, layout.VALIDATED) for path in _below(root)
    }
    return [folder for folder in (layout.SCORED, *sorted(folders)) if shards.present(folder)]


def embeddings_of(folder: Path) -> Path:
    """Where the prompt embeddings of a scored folder lie."""
    if folder == layout.SCORED:
        return layout.EMBEDDINGS
    root, name, set_name = folder.parents[1], folder.parent.name, folder.name
    return root / layout.EMBEDDINGS.name / name / set_name


def scored_problems(folder: Path, embeddings_folder: Path) -> Iterator[str]:
    """What is wrong with a folder of scored shards, a line each."""
    try:
        paths = shards.shard_paths(folder)
    except InputError as error:
        yield str(error)
        paths = shards.present(folder)
    entries = manifest.read(folder)
    if not entries:
        yield f"{folder / manifest.NAME}: is missing or damaged; `tgo score` writes it again"
    for name in sorted(entries.keys() - {path.name for path in paths}):
        yield f"{folder / name}: is in the manifest, but not there"
    for path in sorted({*folder.glob("*.parquet")} - {*paths}):
        yield f"{path}: does not belong there; `tgo score` sets it aside"
    seen: set[str] = set()
    for path in paths:
        try:
            yield from _shard_problems(path, entries, embeddings_folder, seen)
        except InputError as error:
            yield str(error)


def labelled_problems(scored: Path, labelled: Path, settings: Settings) -> Iterator[str]:
    """What is wrong with labels: other rows than the scored ones, other values than the rule's."""
    record = labelled / label_record.NAME
    try:
        facts = label_record.check_labels(scored, labelled, settings.label)
    except InputError as error:
        yield str(error)
        return
    try:
        made = labeller.fit(scored, settings.label, threads=settings.threads)
    except InputError as error:
        yield f"{labelled}: cannot be checked: {error}"
        return
    if facts["threshold"] != float(made.thresholds.overall[0]):
        yield f"{record}: its threshold is not that of the scores; run `tgo label` again"
    for path in made.paths:
        if (labelled / path.name).exists():
            try:
                yield from _label_problems(made, path, labelled / path.name)
            except InputError as error:
                yield str(error)


def _shard_problems(
    path: Path,
    entries: dict[str, manifest.Entry],
    embeddings_folder: Path,
    seen: set[str],
) -> Iterator[str]:
    table = shards.read_shard(path)  # every page's checksum
    listed = entries.get(path.name)
    if entries and not listed:
        yield f"{path}: is not in the manifest"
    if listed and manifest.entry(path) != listed:
        yield f"{path}: its bytes are not those of the manifest"
    metadata = shards.read_metadata(path)
    if "tgo.fingerprint" not in metadata:
        yield f"{path}: has no fingerprint, so it was not written by `tgo score`"
        return
    ids = set(table["id"].to_pylist())
    if len(ids) != table.num_rows or ids & seen:
        yield f"{path}: an id occurs twice"
    seen |= ids
    for row in table.select(["id", "image", "status"]).to_pylist():
        if row["image"] is None and row["status"] != "ok":
            continue  # an imported picture that could not be read
        try:
            sampling.decode_png(row["image"]["bytes"])
        except (OSError, TypeError, ValueError) as error:
            yield f"{path}: the image of {row['id']} cannot be decoded ({error})"
    usable = pc.equal(table["status"], "ok")
    for reward in metadata["tgo.rewards"]:
        scores = table.filter(usable)[reward].to_numpy()
        if not np.isfinite(scores).all():
            yield f"{path}: {reward} has scores that are missing, NaN or infinite"
    embedded = embeddings.path_for(embeddings_folder, path)
    if not embeddings.is_intact(embedded, metadata["tgo.embeddings"]["sha256"]):
        yield f"{embedded}: is missing, or not the file that {path.name} was made with"


def _label_problems(made: labeller.Labeller, scored: Path, labelled: Path) -> Iterator[str]:
    table = shards.read_shard(labelled)
    if not table["id"].equals(shards.read_shard(scored, ["id"])["id"]):
        yield f"{labelled}: its ids are not those of {scored}; run `tgo label` again"
        return
    wanted = pa.concat_tables(label.table(made, rows) for rows in made.shard(scored, ["id"]))
    if not _same(table, wanted):
        yield f"{labelled}: its labels are not those of params.yaml; run `tgo label` again"


def _same(one: pa.Table, other: pa.Table) -> bool:
    return one.column_names == other.column_names and all(
        one[name].equals(other[name]) for name in one.column_names
    )


def _below(root: Path) -> list[Path]:
    """Shards below a folder, without those that lie in hidden folders: set aside."""
    found = root.rglob("shard-*.parquet") if root.exists() else ()
    return [path for path in found if not any(part.startswith(".") for part in path.parts)]


def _tell_of_aside(folder: Path) -> None:
    """Not a problem any more, but somebody should know of it."""
    for entry in aside.entries_of(folder):
        print(f"{entry.folder}: {', '.join(entry.names)} ({entry.reason})")


def _tell(folder: Path, problems: list[str]) -> None:
    print(f"{folder}: {'ok' if not problems else f'{len(problems)} problems'}")
    for problem in problems:
        print(f"  {problem}")
