"""`tgo compare RUN...`: the tuned models of several runs against each other, pair by pair.

A run is a folder that holds reports/pairs.parquet (a clone, a worktree, the working folder as `.`)
or anything that git names and DVC has the file of: a commit, a branch, an experiment.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tgo.pipeline import layout
from tgo.pipeline.errors import InputError
from tgo.pipeline.evaluation import pairs_table, stats
from tgo.pipeline.evaluation.paired_images import Pairs
from tgo.pipeline.evaluation.stats import Interval
from tgo.pipeline.storage.results import GOLD


@dataclass(frozen=True)
class Line:
    """A run's tuned model on a test set: a score's mean, and how it differs from the first run's.

    ``difference`` and ``win_rate`` are over pairs of the same prompt and seed; None for the first
    run, and None for the win rate of a score of two values.
    """

    set_name: str
    score: str
    run: str
    mean: float
    difference: Interval | None
    win_rate: Interval | None


def read(run: str) -> dict[str, Pairs]:
    """Read the pairs of a run.

    Args:
        run: a folder with a run's reports, or a commit or experiment of DVC.

    Returns:
        The image pairs by test set.

    Raises:
        InputError: there is no such run, or its file is missing or damaged.
    """
    folder = Path(run)
    if folder.is_dir():
        return pairs_table.read(folder / layout.PAIRS)[1]
    import dvc.api
    from dvc.exceptions import DvcException

    try:
        content = dvc.api.read(str(layout.PAIRS), rev=run, mode="rb")
    except (DvcException, OSError) as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(
            f"{run}: is no folder of a run and no commit or experiment that has {layout.PAIRS} "
            f"({reason}); `dvc pull` may bring it"
        ) from None
    return pairs_table.read(io.BytesIO(content), name=f"{run}:{layout.PAIRS}")[1]


def lines(runs: Mapping[str, Mapping[str, Pairs]], seed: int) -> list[Line]:
    """Every score of every set that all runs have, the first run being what others differ from.

    Args:
        runs: the pairs by test set, of each run by its name.
        seed: of the bootstrap.

    Returns:
        For each set and score a line for each run, in the order of `runs`.

    Raises:
        InputError: two runs evaluated other prompts or seeds, so that nothing pairs.
    """
    first, *others = runs
    found = []
    for set_name, pairs in runs[first].items():
        for score in pairs.scores:
            if not all(score in runs[run].get(set_name, pairs).base for run in others):
                continue
            prompt_ids, base = pairs.prompt_ids, pairs.tuned[score]
            mean = float(stats.mean_by_prompt(base, prompt_ids).mean())
            found.append(Line(set_name, score, first, mean, None, None))
            for run in others:
                if set_name in runs[run]:
                    tuned = _paired(first, run, set_name, pairs, runs[run][set_name], score)
                    found.append(_line(set_name, score, run, base, tuned, prompt_ids, seed))
    return found


def _paired(
    first: str, run: str, set_name: str, one: Pairs, other: Pairs, score: str
) -> np.ndarray:
    """The other run's scores in the order of the first's pairs."""
    place = {key: row for row, key in enumerate(zip(other.ids, other.seeds, strict=True))}
    try:
        rows = [place[key] for key in zip(one.ids, one.seeds, strict=True)]
    except KeyError:
        raise InputError(
            f"{run}: its images of {set_name} are not of the prompts and seeds of {first}; compare "
            "runs of the same prompts.tests, seed and evaluate settings"
        ) from None
    return other.tuned[score][rows]


def _line(
    set_name: str,
    score: str,
    run: str,
    base: np.ndarray,
    tuned: np.ndarray,
    prompt_ids: Sequence[str],
    seed: int,
) -> Line:
    wins = None if score == GOLD else stats.win_rate(base, tuned, prompt_ids, seed=seed)
    difference = stats.paired_difference(base, tuned, prompt_ids, seed=seed)
    mean = float(stats.mean_by_prompt(tuned, prompt_ids).mean())
    return Line(set_name, score, run, mean, difference, wins)


def show(found: Sequence[Line]) -> None:
    """Print the comparison as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title="Tuned models, same prompts and seeds; change from the first run, 95 % intervals",
        box=None,
        padding=(0, 2, 0, 0),
        pad_edge=False,
    )
    for heading in ("set", "score", "run", "mean", "change", "interval", "win rate"):
        table.add_column(heading, justify="left" if heading in ("set", "score", "run") else "right")
    for line in found:
        change = line.difference
        table.add_row(
            line.set_name if change is None else "",
            line.score if change is None else "",
            line.run,
            f"{line.mean:.4f}",
            "" if change is None else f"{change.value:+.4f}",
            "" if change is None else f"{change.low:+.4f} to {change.high:+.4f}",
            "" if line.win_rate is None else f"{line.win_rate.value:.1%}",
        )
    Console().print(table)
