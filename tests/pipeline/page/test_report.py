"""The report: what it claims, what it escapes, what it weighs, and how a browser takes it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tgo.pipeline import layout, wording
from tgo.pipeline.config.settings import Settings
from tgo.pipeline.errors import InputError
from tgo.pipeline.evaluation import evaluate
from tgo.pipeline.evaluation.paired_images import Pairs
from tgo.pipeline.labelling import label
from tgo.pipeline.page import charts, gallery, plots, report, run_files, summary
from tgo.pipeline.storage import shards

from tests.pipeline import finished_run

HOSTILE = "<script>alert(1)</script> & \"quotes\" 'single' {{ 7 * 7 }}"
VOID = {"meta", "link", "img", "br", "wbr", "hr", "input"}


class Page(HTMLParser):
    """The page's elements; checks on the way that every element is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, with a hostile prompt in the first test set, and its report."""
    root = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        chosen = finished_run.make_settings()
        finished_run.write_run(chosen)
        for model in ("base", "tuned"):
            rename_prompts(evaluate.folder("tests", model, "seen"), HOSTILE)
        report.run(without_judge(chosen))  # the world's judge knows no such prompt
    return root


def rename_prompts(folder: Path, prompt: str) -> None:
    for path in shards.shard_paths(folder):
        table = shards.read_shard(path)
        index = table.column_names.index("prompt")
        table = table.set_column(index, table.schema.field("prompt"), [[prompt] * len(table)])
        shards.write_shard(path, table)


def without_judge(chosen: Settings) -> Settings:
    evaluation = chosen.evaluate.model_copy(update={"judge": None})
    return chosen.model_copy(update={"evaluate": evaluation})


@pytest.fixture
def run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished run, as the working directory."""
    shutil.copytree(finished, tmp_path / "run")
    monkeypatch.chdir(tmp_path / "run")
    return tmp_path / "run"


# --- the page as a whole ---


def test_page_is_well_formed_and_needs_nothing_from_outside(finished: Path) -> None:
    text = (finished / report.INDEX).read_text()
    page = Page(text)
    assert page.open == []
    assert text.startswith("<!doctype html>")
    links = [
        value
        for _, attributes in page.elements
        for name, value in attributes.items()
        if name in ("src", "href", "xlink:href", "data", "poster", "action") and value
    ]
    assert links
    assert all(link.startswith(("#", "data:")) for link in links)
    assert "url(" not in re.sub(r"url\(#[\w-]+\)", "", text)
    assert "@import" not in text
    assert page.all("script") == []
    identifiers = [a["id"] for _, a in page.elements if a.get("id")]
    for link in links:
        assert not link.startswith("#") or link[1:] in identifiers


def test_every_picture_has_words(finished: Path) -> None:
    page = Page((finished / report.INDEX).read_text())
    assert len(page.all("img")) >= 2 * 6
    for image in page.all("img"):
        assert re.match(r"(Base|Tuned) model: .+", image["alt"] or "")
    drawings = [a for a in page.all("svg") if a.get("role") == "img"]
    assert len(drawings) == 1 + 5 * 3 + 9 + 1
    assert all(len(a["aria-label"] or "") > 20 for a in drawings)
    others = [a for a in page.all("svg") if a.get("role") != "img"]
    assert all(a.get("aria-hidden") == "true" for a in others)


def test_prompts_are_escaped(finished: Path) -> None:
    text = (finished / report.INDEX).read_text()
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; &#34;quotes&#34;" in text
    assert HOSTILE in Page(text).text
    assert "49" not in Page(text).all("img")[0]["alt"]  # type: ignore[operator]


def test_made_again_it_has_the_same_bytes(run: Path) -> None:
    before = {path: path.read_bytes() for path in sorted(Path("reports").rglob("*.*"))}
    (report.FIGURES / "stale.svg").write_text("<svg/>")
    report.run(without_judge(finished_run.make_settings()))
    assert {path: path.read_bytes() for path in sorted(Path("reports").rglob("*.*"))} == before


def test_figures_are_files_of_their_own(finished: Path) -> None:
    figures = sorted((finished / report.FIGURES).glob("*.svg"))
    assert len(figures) == 1 + 5 * 3 + 9 + 1
    for path in figures:
        root = ElementTree.parse(path).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        text = path.read_text()
        assert "prefers-color-scheme:dark" in text
        assert "<dc:date>" not in text


def test_gold_verdicts_stand_beside_the_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    chosen = finished_run.make_settings(evaluate={"prompts": 2}, score={"prompts": 16})
    finished_run.write_run(chosen)
    text = Page(report.run(chosen).read_text()).text
    assert "all right" in text
    assert "Gold judge: everything right" in text
    assert "By the gold judge, images with everything right went from" in text


# --- what it says ---


def metrics_of(*rows: tuple[float, float, float]) -> dict[str, Any]:
    """Metrics of PickScore with one (low, difference, high) a test set."""
    return {
        name: {
            "pickscore": {
                "base": 21.0,
                "tuned": 21.0 + difference,
                "difference": difference,
                "low": low,
                "high": high,
                "win_rate": 0.5,
                "win_low": 0.4,
                "win_high": 0.6,
            }
        }
        for name, (low, difference, high) in zip(("seen", "unseen", "hard"), rows, strict=False)
    }


@pytest.mark.parametrize(
    ("rows", "title"),
    [
        ([(0.1, 0.2, 0.3)] * 3, "PickScore rose on all three test sets"),
        ([(-0.3, -0.2, -0.1)] * 3, "PickScore fell on all three test sets"),
        ([(-0.1, 0.0, 0.1)] * 3, "PickScore shows no clear change on all three test sets"),
        ([(0.1, 0.2, 0.3)] * 2, "PickScore rose on both test sets"),
        ([(0.1, 0.2, 0.3)], "PickScore rose on seen"),
        (
            [(0.1, 0.2, 0.3), (-0.3, -0.2, -0.1), (-0.1, 0.1, 0.3)],
            "PickScore rose on seen, fell on unseen, shows no clear change on hard",
        ),
    ],
)
def test_headline_claims_what_the_intervals_allow(rows: list, title: str) -> None:
    chosen = finished_run.make_settings()
    formats = wording.Formats({"pickscore": 1.0})
    assert summary.headline(chosen, metrics_of(*rows), formats).title == title


def test_lead_counts_the_other_reward_models() -> None:
    metrics = metrics_of((0.1, 0.2, 0.3))
    row = metrics["seen"]["pickscore"]
    metrics["seen"] |= {
        "clip": row | {"low": -0.2, "difference": -0.1, "high": -0.05},
        "hpsv2": row,
        "aesthetic": row | {"low": -1.0},
    }
    lead = summary.headline(
        finished_run.make_settings(), metrics, wording.Formats({"pickscore": 1.0})
    ).lead
    assert "Of 3 comparisons by the other reward models, 1 rose clearly and 1 fell." in lead


def test_sign_and_significance_do_not_rest_on_colour(finished: Path) -> None:
    page = Page((finished / report.INDEX).read_text())
    assert "clearly higher:" in page.text
    assert "▲" in page.text


@pytest.mark.parametrize(
    ("spread", "text"),
    [(1.1, "1.23"), (0.9, "1.23"), (0.02, "1.2346"), (30.0, "1.2"), (0, "1.235")],
)
def test_decimals_follow_the_spread(spread: float, text: str) -> None:
    assert wording.Formats({"clip": spread}).score(1.23456, "clip") == text


def test_numbers_have_a_true_minus_and_a_sign() -> None:
    formats = wording.Formats({"clip": 1.0})
    assert formats.change(-0.5, "clip") == "−0.50"
    assert formats.change(0.5, "clip") == "+0.50"
    assert wording.points(-0.0213) == "−2.1\u00a0pp"


# --- which pictures it shows ---


def pairs_of(count: int, seed: int = 0) -> Pairs:
    rng = np.random.default_rng(seed)
    scores = [{"clip": rng.normal(size=count)} for _ in range(2)]
    return Pairs(
        ids=[f"{i}" for i in range(count)],
        prompts=[f"prompt {i // 2}" for i in range(count)],
        prompt_ids=[f"p{i // 2}" for i in range(count)],
        seeds=list(range(count)),
        base=scores[0],
        tuned=scores[1],
        excluded=0,
    )


def test_sample_is_fixed_spread_over_sets_and_shows_no_prompt_twice() -> None:
    pairs = {"seen": pairs_of(40), "hard": pairs_of(40, 1), "tiny": pairs_of(2)}
    sample = gallery.choose(pairs, "clip", 9, seed=0)["sample"]
    assert sample == gallery.choose(pairs, "clip", 9, seed=0)["sample"]
    assert sample != gallery.choose(pairs, "clip", 9, seed=1)["sample"]
    assert [pick.set_name for pick in sample] == ["seen"] * 4 + ["hard"] * 4 + ["tiny"]
    prompts = [(pick.set_name, pairs[pick.set_name].prompt_ids[pick.row]) for pick in sample]
    assert len(set(prompts)) == len(prompts)


def test_sample_ends_when_prompts_do() -> None:
    assert len(gallery.choose({"seen": pairs_of(6)}, "clip", 12, seed=0)["sample"]) == 3


def test_sample_does_not_depend_on_scores() -> None:
    pairs = pairs_of(40)
    better = Pairs(**(vars(pairs) | {"tuned": {"clip": -pairs.tuned["clip"]}}))
    choices = [gallery.choose({"seen": p}, "clip", 6, seed=0)["sample"] for p in (pairs, better)]
    assert choices[0] == choices[1]


def test_extremes_are_the_extremes() -> None:
    pairs = pairs_of(40)
    picks = gallery.choose({"seen": pairs}, "clip", 6, seed=0)
    score, gain = pairs.tuned["clip"], pairs.gain("clip")
    assert [pick.row for pick in picks["best"]] == np.argsort(-score)[:3].tolist()
    assert [pick.row for pick in picks["worst"]] == np.argsort(score)[:3].tolist()
    assert [pick.row for pick in picks["gains"]] == np.argsort(-gain)[:3].tolist()
    assert [pick.row for pick in picks["losses"]] == np.argsort(gain)[:3].tolist()


def test_losses_are_shown_only_where_something_was_lost() -> None:
    pairs = pairs_of(10)
    better = Pairs(**(vars(pairs) | {"tuned": {"clip": pairs.base["clip"] + 1}}))
    picks = gallery.choose({"seen": better}, "clip", 4, seed=0)
    assert picks["losses"] == []
    assert len(picks["gains"]) == 2


def test_small_images_go_in_as_stored_and_large_ones_reduced() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (600, 1000, 3), dtype=np.uint8)
    source, width, height = gallery.embed(finished_run.png(noise))
    assert source.startswith("data:image/jpeg;base64,")
    assert (width, height) == (gallery.LARGEST, 230)
    small = finished_run.png(noise[:64, :64])
    source, width, height = gallery.embed(small)
    assert source.startswith("data:image/png;base64,")
    assert (width, height) == (64, 64)


# --- charts ---


def test_charts_are_the_same_bytes_every_time_and_take_the_page_s_colours() -> None:
    scores = np.random.default_rng(0).normal(size=200)
    drawn = [plots.before_after(scores, scores + 1, "unit") for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert not re.search(r"#[0-9a-f]{6}", re.sub(r'"#\w+"|url\(#\w+\)', "", drawn[0]))
    assert "DejaVu" not in drawn[0]
    assert "Mean of the base model" in drawn[0]


@pytest.mark.parametrize("scores", [[1.0], [2.0, 2.0, 2.0], [-1.0, 5.0]])
def test_charts_of_few_or_equal_scores(scores: list[float]) -> None:
    assert plots.before_after(scores, scores, "unit").startswith("<svg")
    labels = [1] * len(scores)
    assert plots.distribution(scores, labels, scores[0], (scores[0],) * 2, "unit")


def test_distribution_leaves_excluded_rows_out() -> None:
    drawn = plots.distribution(
        [0.0, 1.0, 2.0, float("nan")], [0, 1, 1, -1], 1.0, (0.5, 1.5), "unit"
    )
    assert "Histogram of 3 scores. 2 lie on the positive side" in drawn


def test_an_edge_of_the_histogram_lies_on_the_threshold() -> None:
    values = np.random.default_rng(0).normal(size=500)
    edges = plots.bin_edges(values, through=0.123)
    assert np.abs(edges - 0.123).min() < 1e-12
    assert edges[0] <= values.min()
    assert edges[-1] >= values.max() - 1e-12


def test_labels_are_escaped_in_charts() -> None:
    drawn = plots.before_after([1.0, 2.0], [2.0, 3.0], '<script> "unit" & more')
    assert "<script>" not in drawn
    ElementTree.fromstring(plots.standalone(drawn).split("\n", 1)[1])


def test_constant_scores_correlate_with_nothing(run: Path) -> None:
    found = run_files.read(without_judge(finished_run.make_settings()))
    found.scores["clip"][:] = 1.0
    figure = charts.correlation(found)
    assert figure is not None
    assert "n/a" in figure.svg


def test_the_page_tells_what_stage_two_chose_and_found(run: Path) -> None:
    shutil.copy(layout.THRESHOLD, "before.json")
    aggregate = {"reward": {"pickscore": 2.0, "clip": 1.0}, "standardise": "rank"}
    for changes, told in (
        ({}, ["estimator percentile 50, ties positive", "weights standardised, c = 5"]),
        ({"earlier": "before.json"}, ["shift since the earlier threshold +0.0"]),
        (
            {**aggregate, "scope": "prompt", "shrinkage": 2.0, "ordinal": [25.0, 75.0]},
            [
                "feedback 2 PickScore + 1 CLIP (rank, 0 to 1)",
                "scope prompt, drawn to the global threshold as by 2 rows",
                "graded targets at",
                "95 % interval of the global threshold",
            ],
        ),
        (
            {"scope": "replicate", "weights": "noise", "confidence": None, "error": 0.5},
            ["Balance by group", "replicate 0", "of 24 have label 1; threshold", "error = 0.5"],
        ),
    ):
        chosen = finished_run.make_settings(label=changes)
        label.label_folder(layout.SCORED, layout.LABELLED, chosen.label, seed=0)
        facts = json.loads(layout.THRESHOLD.read_text())
        report.run(without_judge(chosen))
        text = "".join(Page(report.INDEX.read_text()).text.split())  # cells have no space between
        for words in [*told, *facts["warnings"], facts["recommendation"]]:
            assert "".join(words.split()) in text, words


def test_training_is_held_against_what_is_healthy(finished: Path) -> None:
    page = (finished / report.INDEX).read_text()
    assert "Was it healthy at the end?" in page
    assert "<dt>accuracy</dt>" in page
    assert "(healthy: 0.5 to 0.98)" in page


def test_objectives_without_a_reference_have_fewer_curves(run: Path) -> None:
    lines = [{"step": 10, "loss": 1.0, "grad_norm": 2.0}]
    layout.TRAIN_LOG.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = run_files.read(without_judge(finished_run.make_settings()))
    assert list(charts.training(found)) == ["loss", "grad_norm"]


# --- bad input ---


@pytest.mark.parametrize(
    ("path", "stage"),
    [
        (layout.EVALUATION, "tgo evaluate"),
        (layout.THRESHOLD, "tgo label"),
        (layout.TRAIN_LOG, "tgo train"),
    ],
)
def test_missing_and_damaged_files_are_named(run: Path, path: Path, stage: str) -> None:
    chosen = without_judge(finished_run.make_settings())
    path.write_text('{"half": ')
    with pytest.raises(InputError, match=f"{re.escape(str(path))}: is damaged .*{stage}"):
        report.run(chosen)
    path.unlink()
    with pytest.raises(InputError, match=f"{re.escape(str(path))}: is missing; run `{stage}`"):
        report.run(chosen)


def test_files_of_other_settings_are_refused(run: Path) -> None:
    with pytest.raises(InputError, match=r"threshold\.json: made for pickscore, but label\.reward"):
        report.run(finished_run.make_settings(label={"reward": "clip"}))
    tests = {"other": "data/prompts/other.jsonl"}
    with pytest.raises(InputError, match=r"evaluation\.json: lacks a test set"):
        report.run(finished_run.make_settings(prompts={"tests": tests}))


# --- in a browser ---

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PROBE = """<script>addEventListener("load", async () => {
  const images = [...document.images];
  await Promise.all(images.map(image => image.decode()));
  document.body.dataset.probe = JSON.stringify({
    images: images.length,
    broken: images.filter(image => !image.naturalWidth).length,
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    charts: [...document.querySelectorAll("figure > svg")].filter(
      svg => svg.getBoundingClientRect().height < 80).length,
  });
});</script>"""


def browse(page: Path, profile: Path, width: int, *options: str) -> tuple[str, str]:
    """The page's DOM after loading, and what the browser logged."""
    command = [
        str(CHROMIUM),
        *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *("--enable-logging=stderr", "--virtual-time-budget=20000", "--dump-dom"),
        f"--user-data-dir={profile}",
        f"--window-size={width},2000",
        *options,
        page.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    return done.stdout, done.stderr


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
@pytest.mark.parametrize("width", [500, 1280])
def test_browser_shows_everything_without_complaint(
    finished: Path, tmp_path: Path, width: int
) -> None:
    text = (finished / report.INDEX).read_text()
    page = tmp_path / "page.html"
    closed = re.sub(r"<details(?: class=\"more\")?>", "<details open>", text)
    page.write_text(closed.replace("</body>", PROBE + "</body>"))
    dom, logged = browse(page, tmp_path / "profile", width)
    assert "CONSOLE" not in logged
    found = re.search(r'data-probe="([^"]*)"', dom)
    assert found, dom[-500:]
    probe = json.loads(found.group(1).replace("&quot;", '"'))
    assert probe["images"] == text.count("<img ")
    assert probe == {"images": probe["images"], "broken": 0, "overflow": 0, "charts": 0}
