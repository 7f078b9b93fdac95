"""Stage `report`: one self-contained HTML page from what the other stages left on disk.

The page opens from disk and needs no network, follows the reader's light or dark theme, and has
the same bytes whenever it is made from the same files. With JavaScript it shows every pair of the
test sets, without it a selection. Its charts are written as files, too, and so are pictures that
are larger than the page shows them.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tgo.pipeline import layout
from tgo.pipeline.cards import threshold_facts
from tgo.pipeline.cards.model_card import score_title
from tgo.pipeline.config.settings import Settings
from tgo.pipeline.page import (
    charts,
    gallery,
    plots,
    progress,
    results_table,
    rounds_table,
    run_details,
    run_files,
    summary,
)
from tgo.pipeline.page.gallery import Pick, Pictures
from tgo.pipeline.page.run_files import RunFiles
from tgo.pipeline.storage.atomic import replacing
from tgo.pipeline.templates import colours, template
from tgo.pipeline.training_log import health, sample_strips
from tgo.pipeline.wording import TITLES, Formats

INDEX = layout.REPORTS / "index.html"
FIGURES = layout.REPORTS / "figures"
FULL = FIGURES / "pictures"
"""Pictures larger than the page shows them, which it reads when one is clicked."""

Figures = dict[str, dict[str, charts.Figure]]


def run(settings: Settings) -> Path:
    """Write reports/index.html, reports/figures and the curves for `dvc plots`.

    Args:
        settings: the checked settings.

    Returns:
        The page's path.

    Raises:
        InputError: a file of an earlier stage is missing or damaged, was made with other
            settings, or is of another model than the rest; the line names the file and the stage
            to run.
    """
    found = run_files.read(settings)
    figures = _figures(found)
    _remove_figures()
    for kind, drawn in figures.items():
        for name, figure in drawn.items():
            _write(FIGURES / f"{kind}_{name}.svg", plots.standalone(figure.svg))
    _write(layout.TRAINING_CURVES, charts.as_csv(found.log))
    _copy_samples()
    _write(INDEX, template("report.html.j2").render(_context(found, figures)))
    return INDEX


def _copy_samples() -> None:
    """Sample images as `dvc plots` shows them: a folder of pictures and nothing else."""
    shutil.rmtree(layout.SAMPLE_PLOTS, ignore_errors=True)
    layout.SAMPLE_PLOTS.mkdir(parents=True)
    for _, path in sample_strips.paths(layout.SAMPLES):
        shutil.copyfile(path, layout.SAMPLE_PLOTS / path.name)


def _figures(found: RunFiles) -> Figures:
    """Every chart by kind and name."""
    main = found.settings.shown_reward
    rewards = list(found.settings.rewards)
    other = [name for name in rewards if name != main]
    correlation = charts.correlation(found)
    return {
        "threshold": {"scores": charts.threshold(found)},
        "forest": charts.forest(found),
        "domains": charts.domains(found, main) if main else {},
        "difference": charts.differences(found, main) if main else {},
        "other_difference": {
            f"{reward}_{name}": figure
            for reward in other
            for name, figure in charts.differences(found, reward).items()
        },
        "training": charts.training(found.log),
        "correlation": {"rewards": correlation} if correlation else {},
    }


def _context(found: RunFiles, figures: Figures) -> dict[str, Any]:
    settings, main = found.settings, found.settings.shown_reward
    shown = results_table.order(found)
    formats = Formats({score: found.spread(score) for score in {*settings.rewards, *shown}})
    folders = {name: run_files.evaluated(name) for name in found.pairs}
    pictures = Pictures(found.pairs, folders, FULL, settings.seed)
    scores = [(score, score_title(score)) for score in shown]
    stages, machine = run_details.stages()
    verdicts = health.verdicts(found.log)
    return {
        "light": colours.LIGHT,
        "dark": colours.DARK,
        "formats": formats,
        "main": main and {"name": main, "title": TITLES[main]},
        "feedback": threshold_facts.scalar_title(found.threshold),
        "judged": found.judged,
        "headline": summary.headline(found, formats),
        "tiles": summary.tiles(found, formats),
        "telling": [
            (kind, _card(pictures, pick, formats, main))
            for kind, pick in gallery.telling(pictures.pairs, main, settings.seed)
        ],
        "selections": [
            (chosen.title, [_card(pictures, pick, formats, main) for pick in chosen.picks])
            for chosen in gallery.selections(
                pictures.pairs, main, settings.report.gallery, settings.seed
            )
        ],
        "sides": ("Base", "Tuned"),
        "pairs_count": sum(map(len, found.pairs.values())),
        "shown_count": sum(map(len, pictures.pairs.values())),
        "gallery_data": gallery.embedded(gallery.data(pictures, scores, main)),
        "gallery_sheets": gallery.embedded(pictures.sheets()),
        "table": results_table.table(found, formats),
        "rounds": rounds_table.table(found),
        "results_note": summary.results_note(found.metrics),
        "figures": {kind: list(drawn.values()) for kind, drawn in figures.items()},
        "threshold_facts": threshold_facts.threshold_facts(found.threshold),
        "threshold_warnings": found.threshold["warnings"],
        "threshold_advice": found.threshold["recommendation"],
        "group_facts": threshold_facts.group_facts(found.threshold),
        "agreement_facts": threshold_facts.agreement_facts(found.threshold),
        "training_note": summary.training_note(settings),
        "health": verdicts,
        "unhealthy": [verdict for verdict in verdicts if not verdict.healthy],
        "progress": progress.read(layout.SAMPLES),
        "changed_settings": run_details.changed(settings),
        "settings_groups": run_details.groups(settings),
        "settings_yaml": run_details.as_yaml(settings),
        "stages": stages,
        "machine": machine,
        "provenance": run_details.provenance(found),
    }


def _card(pictures: Pictures, pick: Pick, formats: Formats, main: str | None) -> dict[str, Any]:
    """A pair as a page without scripts shows it."""
    pairs, row = pictures.pairs[pick.set_name], pick.row
    base, tuned, width, height = pictures.pair(pick)
    card: dict[str, Any] = {
        "prompt": pairs.prompts[row],
        "set_name": pick.set_name,
        "base": base,
        "tuned": tuned,
        "width": width,
        "height": height,
        "score": None,
        "truth": None,
    }
    if main is not None:
        before, after = float(pairs.base[main][row]), float(pairs.tuned[main][row])
        card["score"] = {
            "base": formats.score(before, main),
            "tuned": formats.score(after, main),
            "way": "up" if after > before else "down" if after < before else "flat",
        }
    if "truth" in pairs.base:
        before, after = float(pairs.base["truth"][row]), float(pairs.tuned["truth"][row])
        card["truth"] = {"base": before, "tuned": after}
    return card


def _remove_figures() -> None:
    """Charts and pictures of an earlier page; whatever else lies there stays."""
    for stale in FIGURES.glob("*.svg"):
        stale.unlink()
    if FULL.is_dir() and not FULL.is_symlink():
        shutil.rmtree(FULL)


def _write(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write(text.encode())
