"""Stage `report`: one self-contained HTML page from what the other stages left on disk.

The page needs no network and no script, follows the reader's light or dark theme, and has the
same bytes whenever it is made from the same files. Its charts are written as files, too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tgo.pipeline import layout
from tgo.pipeline.cards import threshold_facts
from tgo.pipeline.config.settings import Settings
from tgo.pipeline.evaluation.evaluate import load_judge
from tgo.pipeline.page import charts, gallery, plots, run_files, summary
from tgo.pipeline.page.run_files import RunFiles
from tgo.pipeline.storage import shards
from tgo.pipeline.storage.atomic import replacing
from tgo.pipeline.templates import template
from tgo.pipeline.training_log import health
from tgo.pipeline.wording import TITLES, Formats

INDEX = layout.REPORTS / "index.html"
FIGURES = layout.REPORTS / "figures"


def run(settings: Settings) -> Path:
    """Write reports/index.html and reports/figures/*.svg; returns the page's path.

    Raises:
        InputError: a file of an earlier stage is missing or damaged, or was made with other
            settings; the line names the file and the stage to run.
    """
    found = run_files.read(settings)
    figures = _figures(found)
    formats = Formats({reward: found.spread(reward) for reward in settings.rewards})
    page = template("report.html.j2").render(_context(found, figures, formats))
    for stale in FIGURES.glob("*.svg"):
        stale.unlink()
    for name, figure in figures.items():
        _write(FIGURES / f"{name}.svg", plots.standalone(figure.svg))
    _write(INDEX, page)
    print(f"report: {INDEX}")
    return INDEX


def _figures(found: RunFiles) -> dict[str, charts.Figure]:
    """Every chart by the name of its file."""
    figures = {"threshold": charts.threshold(found)}
    for reward in found.settings.rewards:
        for name, figure in charts.before_after(found, reward).items():
            figures[f"before_after_{reward}_{name}"] = figure
    for name, figure in charts.training(found).items():
        figures[f"training_{name}"] = figure
    correlation = charts.correlation(found)
    return figures | ({"correlation": correlation} if correlation else {})


def _context(
    found: RunFiles, figures: Mapping[str, charts.Figure], formats: Formats
) -> dict[str, Any]:
    settings, metrics = found.settings, found.metrics
    reward = settings.shown_reward

    def named(prefix: str) -> list[charts.Figure]:
        return [figure for name, figure in figures.items() if name.startswith(prefix)]

    of_feedback = named(f"before_after_{reward}_")
    cards = _cards(found)
    return {
        "formats": formats,
        "light": plots.LIGHT,
        "dark": plots.DARK,
        "titles": {name: TITLES[name] for name in settings.rewards},
        "feedback": {"name": reward, "title": TITLES[reward]},
        "scalar": threshold_facts.scalar_title(found.threshold),
        "judged": settings.evaluate.judge is not None,
        "headline": summary.headline(settings, metrics, formats),
        "tiles": summary.tiles(settings, metrics, formats),
        "table": summary.table(settings, metrics, formats),
        "results_note": summary.results_note(metrics),
        "feedback_charts": of_feedback,
        "other_charts": [chart for chart in named("before_after_") if chart not in of_feedback],
        "training_charts": named("training_"),
        "sample": cards.pop("sample"),
        "extremes": summary.extremes(cards, TITLES[reward]),
        "threshold_chart": figures["threshold"],
        "threshold_facts": threshold_facts.threshold_facts(found.threshold),
        "threshold_warnings": found.threshold["warnings"],
        "threshold_advice": found.threshold["recommendation"],
        "group_facts": threshold_facts.group_facts(found.threshold),
        "agreement_facts": threshold_facts.agreement_facts(found.threshold),
        "correlation": figures.get("correlation"),
        "training_note": summary.training_note(settings),
        "training_health": health.verdicts(found.log),
        "progress": gallery.progress(layout.SAMPLES),
        "settings_groups": summary.settings_groups(settings),
        "provenance": _provenance(found),
    }


def _cards(found: RunFiles) -> dict[str, list[gallery.Card]]:
    """The galleries by name: sample, best, worst, gains, losses."""
    settings = found.settings
    judge = settings.evaluate.judge
    picks = gallery.choose(
        found.pairs, settings.shown_reward, settings.report.gallery, settings.seed
    )
    made = gallery.cards(
        [pick for group in picks.values() for pick in group],
        found.pairs,
        {name: run_files.evaluated(name) for name in found.pairs},
        load_judge(judge) if judge else None,
    )
    return {name: [made[pick] for pick in group] for name, group in picks.items()}


def _provenance(found: RunFiles) -> list[dict[str, str]]:
    """What the page was made from: checkpoints as recorded in the shards, files as they lie."""
    facts = found.metrics["generator"]
    rows = [
        {"name": "Base model", "note": facts["base"], "sha256": facts["base_sha256"]},
        {"name": "Tuned model", "note": facts["tuned"], "sha256": facts["tuned_sha256"]},
    ]
    for name, model in found.models.items():
        note = f"{model['version']}, {model['unit']}, {model['dtype']}"
        rows.append({"name": TITLES[name], "note": note, "sha256": model["checkpoint_sha256"]})
    paths = shards.shard_paths(layout.LABELLED)
    note = f"{layout.LABELLED}, {len(paths)} files"
    rows.append({"name": "Labelled shards", "note": note, "sha256": _sha256(*paths)})
    for title, path in (("Threshold", layout.THRESHOLD), ("Evaluation", layout.EVALUATION)):
        rows.append({"name": title, "note": str(path), "sha256": _sha256(path)})
    return rows


def _sha256(*paths: Path) -> str:
    """Checksum of a file, or of the ``sha256sum`` listing of several."""
    digests = []
    for path in paths:
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    if len(paths) == 1:
        return digests[0]
    listing = "".join(f"{d}  {p.name}\n" for d, p in zip(digests, paths, strict=True))
    return hashlib.sha256(listing.encode()).hexdigest()


def _write(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write(text.encode())
