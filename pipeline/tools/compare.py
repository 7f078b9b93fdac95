"""`tgo compare RUN...`: the tuned models of several runs against each other, pair by pair.

A run is a folder that holds reports/pairs.parquet (a clone, a worktree, the working folder as `.`)
or anything that git names and DVC has the file of: a commit, a branch, an experiment.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tgo.pipeline import layout
from tgo.pipeline.config.settings import Settings
from tgo.pipeline.errors import InputError
from tgo.pipeline.evaluation import pairs_table, stats
from tgo.pipeline.evaluation.paired_images import Pairs
from tgo.pipeline.evaluation.stats import Interval
from tgo.pipeline.storage.results import GOLD, UTILITY, shown

Runs = Mapping[str, Mapping[str, Pairs]]
"""The pairs by test set, of each run by its name."""


@dataclass(frozen=True)
class Line:
    """A run's tuned model on a test set: a score's mean, and how it differs from the first run's.

    ``difference`` and ``win_rate`` are over pairs of the same prompt and seed; None for the first
    run, and None for the win rate of a score of two values. ``spread`` is the standard deviation
    of the first run's scores.
    """

    set_name: str
    score: str
    run: str
    mean: float
    spread: float
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


def joined(runs: Runs) -> dict[str, dict[str, Pairs]]:
    """Each further run's tuned images beside the first run's, as pairs of base and tuned are.

    Args:
        runs: two runs or more.

    Returns:
        By run but the first, and by test set that both have, pairs whose ``base`` is the first
        run's tuned model, with the scores that both have.

    Raises:
        InputError: two runs evaluated other prompts or seeds, so that nothing pairs.
    """
    first, *others = runs
    return {
        run: {
            name: _paired(first, run, name, pairs, runs[run][name])
            for name, pairs in runs[first].items()
            if name in runs[run]
        }
        for run in others
    }


def lines(runs: Runs, seed: int) -> list[Line]:
    """Every score that all runs have, the first run being what others differ from.

    Args:
        runs: two runs or more.
        seed: of the bootstrap.

    Returns:
        For each set and score a line for each run, in the order of `runs`.

    Raises:
        InputError: two runs evaluated other prompts or seeds, so that nothing pairs.
    """
    first, found = next(iter(runs)), []
    beside = joined(runs)
    for name, pairs in runs[first].items():
        with_set = {run: sets[name] for run, sets in beside.items() if name in sets}
        for score in pairs.scores:
            if not all(score in other.tuned for other in with_set.values()):
                continue
            base = pairs.tuned[score]
            mean = float(stats.mean_by_prompt(base, pairs.prompt_ids).mean())
            spread = float(base.std())
            found.append(Line(name, score, first, mean, spread, None, None))
            for run, other in with_set.items():
                found.append(_line(name, score, run, other, spread, seed))
    return found


def _paired(first: str, run: str, set_name: str, one: Pairs, other: Pairs) -> Pairs:
    """The tuned images of both, in the order of the first's pairs."""
    place = {key: row for row, key in enumerate(zip(other.ids, other.seeds, strict=True))}
    try:
        rows = [place[key] for key in zip(one.ids, one.seeds, strict=True)]
    except KeyError:
        raise InputError(
            f"{run}: its images of {set_name} are not of the prompts and seeds of {first}; compare "
            "runs of the same prompts.tests, seed and evaluate settings"
        ) from None
    both = [score for score in one.tuned if score in other.tuned]
    return replace(
        one,
        base={score: one.tuned[score] for score in both},
        tuned={score: other.tuned[score][rows] for score in both},
    )


def _line(set_name: str, score: str, run: str, pairs: Pairs, spread: float, seed: int) -> Line:
    base, tuned, prompt_ids = pairs.base[score], pairs.tuned[score], pairs.prompt_ids
    wins = None if score == GOLD else stats.win_rate(base, tuned, prompt_ids, seed=seed)
    difference = stats.paired_difference(base, tuned, prompt_ids, seed=seed)
    mean = float(stats.mean_by_prompt(tuned, prompt_ids).mean())
    return Line(set_name, score, run, mean, spread, difference, wins)


def main_lines(found: Sequence[Line], settings: Settings) -> list[Line]:
    """The lines worth a reader's time, the test sets in the order of the settings."""
    scores = shown({line.score for line in found}, settings.label.reward)
    order = {name: place for place, name in enumerate(settings.prompts.tests)}
    chosen = [line for line in found if line.score in scores]
    return sorted(chosen, key=lambda line: order.get(line.set_name, len(order)))


def as_json(found: Sequence[Line]) -> list[dict[str, Any]]:
    """The lines for scripts; an interval has the keys value, low and high."""
    return [
        vars(line)
        | {
            "difference": line.difference and line.difference._asdict(),
            "win_rate": line.win_rate and line.win_rate._asdict(),
        }
        for line in found
    ]


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
        score = "utility" if line.score.startswith(UTILITY) else line.score
        table.add_row(
            line.set_name if change is None else "",
            score if change is None else "",
            line.run,
            f"{line.mean:.4f}",
            "" if change is None else f"{change.value:+.4f}",
            "" if change is None else f"{change.low:+.4f} to {change.high:+.4f}",
            "" if line.win_rate is None else f"{line.win_rate.value:.1%}",
        )
    console = Console()
    console.print(table)
    changes = [line.difference for line in found if line.difference is not None]
    if changes and all(change.low == change.high == 0 for change in changes):
        console.print("Every picture has the same scores in all runs: they may be one model.")
