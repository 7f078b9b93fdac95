"""The report: its statements, HTML escaping, size, and whether browsers can parse it."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.pipeline import finished_run
from tgo.pipeline import layout, wording
from tgo.pipeline.errors import InputError
from tgo.pipeline.evaluation import evaluate, pairs_table
from tgo.pipeline.evaluation.paired_images import Pairs
from tgo.pipeline.labelling import label
from tgo.pipeline.page import atlas, charts, gallery, plots, report, run_files
from tgo.pipeline.storage import shards
from tgo.pipeline.training_log import sample_strips

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
        facts, pairs = pairs_table.read(layout.PAIRS)
        pairs["seen"] = replace(pairs["seen"], prompts=[HOSTILE] * len(pairs["seen"]))
        pairs_table.write(layout.PAIRS, pairs, facts)
        report.run(chosen)
    return root


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
    assert page.all("main")
    assert "url(" not in re.sub(r"url\(#[\w-]+\)", "", text)
    assert "@import" not in text
    assert [a.get("src") for a in page.all("script")] == [None] * 3
    identifiers = [a["id"] for _, a in page.elements if a.get("id")]
    for link in links:
        assert not link.startswith("#") or link[1:] in identifiers


def test_every_picture_has_words(finished: Path) -> None:
    page = Page((finished / report.INDEX).read_text())
    assert len(page.all("img")) >= 2 * 6
    for image in page.all("img"):
        assert re.match(
            r"(Base model|Tuned model|Sample images after step \d+.*): .+", image["alt"] or ""
        )
    drawings = [a for a in page.all("svg") if a.get("role") == "img"]
    assert len(drawings) == len(list((finished / report.FIGURES).glob("*.svg")))
    assert all(len(a["aria-label"] or "") > 20 for a in drawings)
    others = [a for a in page.all("svg") if a.get("role") != "img"]
    assert all(a.get("aria-hidden") == "true" for a in others)


def test_prompts_are_escaped(finished: Path) -> None:
    text = (finished / report.INDEX).read_text()
    assert "<script>alert" not in text
    assert "\\u003cscript\\u003ealert(1)" in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; &#34;quotes&#34;" in text
    assert HOSTILE in Page(text).text
    assert "49" not in Page(text).all("img")[0]["alt"]  # type: ignore[operator]


def test_made_again_it_has_the_same_bytes(run: Path) -> None:
    before = {path: path.read_bytes() for path in sorted(Path("reports").rglob("*.*"))}
    (report.FIGURES / "stale.svg").write_text("<svg/>")
    report.run(finished_run.make_settings())
    assert {path: path.read_bytes() for path in sorted(Path("reports").rglob("*.*"))} == before


def test_sample_images_are_plots_of_dvc_without_earlier_ones(run: Path) -> None:
    (layout.SAMPLE_PLOTS / "step-00009999.png").write_bytes(b"stale")
    for step in (0, 100):
        sample_strips.write(layout.SAMPLES, step, np.full((2, 4, 4, 3), step, np.uint8))
    report._copy_samples()
    drawn = [path for _, path in sample_strips.paths(layout.SAMPLES)]
    shown = sorted(layout.SAMPLE_PLOTS.iterdir())
    assert [path.name for path in shown] == ["step-00000000.png", "step-00000100.png"]
    assert [path.read_bytes() for path in shown] == [path.read_bytes() for path in drawn]


def test_figures_are_files_of_their_own(finished: Path) -> None:
    figures = sorted((finished / report.FIGURES).glob("*.svg"))
    # threshold, forest and domains a set, differences a reward and set, curves, agreement
    assert (
        len(figures) == 1 + 3 + len(list((finished / report.FIGURES).glob("domains_*"))) + 15 + 10
    )
    for path in figures:
        root = ElementTree.parse(path).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        text = path.read_text()
        assert "prefers-color-scheme:dark" in text
        assert "<dc:date>" not in text


def test_the_truth_stands_beside_the_scores(finished: Path) -> None:
    text = Page((finished / report.INDEX).read_text()).text
    assert "By the rule-based checker, attributes that are correct went from" in text
    assert "Truth: all attributes correct" in text
    assert "toy world, miniature stand-ins for the reward models" in text


def test_without_a_judge_the_page_says_what_stands_in_for_the_truth(run: Path) -> None:
    chosen = finished_run.make_settings(evaluate={"judge": None})
    finished_run.write_evaluation(chosen)
    text = Page(report.run(chosen).read_text()).text
    assert "the reward models that gave no feedback stand in for it" in text
    assert "truth gained" not in text


def test_without_any_reward_model_the_pictures_and_the_truth_are_left(run: Path) -> None:
    chosen = finished_run.make_settings()
    chosen = chosen.model_copy(
        update={"rewards": {}, "label": chosen.label.model_copy(update={"reward": {"rating": 1.0}})}
    )
    finished_run.write_evaluation(chosen)
    shutil.rmtree(layout.SCORED)  # labels are then checked by threshold.json alone
    facts = json.loads(layout.THRESHOLD.read_text())
    facts |= {"reward": "rating", "rewards": {"rating": facts["rewards"]["pickscore"]}}
    layout.THRESHOLD.write_text(json.dumps(facts))
    text = Page(report.run(chosen).read_text()).text
    assert "The truth rose" in text or "The truth shows" in text
    assert "PickScore on seen" not in text


# --- what it says ---


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
    """Pairs of two images a prompt with random clip scores, in two domains."""
    rng = np.random.default_rng(seed)
    prompts = [f"p{i // 2}" for i in range(count)]
    return Pairs(
        ids=[str(i) for i in range(count)],
        prompts=prompts,
        prompt_ids=prompts,
        domains=["even" if i % 4 < 2 else "odd" for i in range(count)],
        seeds=list(range(count)),
        base={"clip": rng.normal(size=count)},
        tuned={"clip": rng.normal(size=count)},
        excluded=0,
    )


def test_sample_is_fixed_spread_over_sets_and_shows_no_prompt_twice() -> None:
    pairs = {"seen": pairs_of(40), "unseen": pairs_of(40, 1), "hard": pairs_of(40, 2)}
    picks = gallery.sample(pairs, 12, seed=0)
    assert picks == gallery.sample(pairs, 12, seed=0)
    assert picks != gallery.sample(pairs, 12, seed=1)
    assert [pick.set_name for pick in picks] == ["seen"] * 4 + ["unseen"] * 4 + ["hard"] * 4
    assert len({(pick.set_name, pairs[pick.set_name].prompt_ids[pick.row]) for pick in picks}) == 12
    assert len(gallery.sample({"seen": pairs_of(6)}, 12, seed=0)) == 3


def test_sample_does_not_depend_on_scores() -> None:
    pairs = pairs_of(40)
    better = replace(pairs, tuned={"clip": -pairs.tuned["clip"]})
    choices = [gallery.sample({"seen": p}, 6, seed=0) for p in (pairs, better)]
    assert choices[0] == choices[1]


def test_telling_pairs_show_what_got_worse_as_much_as_what_got_better() -> None:
    pairs = {"seen": pairs_of(40), "hard": pairs_of(40, 1)}
    told = gallery.telling(pairs, "clip", seed=0)
    assert [kind for kind, _ in told] == (
        ["score up most"] * 2 + ["at random"] * 2 + ["score down most"] * 2
    )
    assert len({pick for _, pick in told}) == 6
    assert {pick.set_name for _, pick in told[:2]} == {"seen", "hard"}
    best, worst = told[0][1], told[-2][1]
    gains = np.concatenate([found.gain("clip") for found in pairs.values()])
    assert pairs[best.set_name].gain("clip")[best.row] == gains.max()
    assert pairs[worst.set_name].gain("clip")[worst.row] == gains.min()
    risen = {"seen": replace(pairs["seen"], tuned={"clip": pairs["seen"].base["clip"] + 1})}
    assert "score down most" not in dict(gallery.telling(risen, "clip", seed=0))


def test_a_page_holds_a_part_of_very_many_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery, "MOST", 20)
    pairs = pairs_of(40)
    kept = gallery._kept(pairs, 1, seed=0)
    assert len(kept) == 20
    assert kept.prompt_ids == [pairs.prompt_ids[pairs.ids.index(name)] for name in kept.ids]


def test_large_pictures_are_reduced_for_the_page_and_lie_whole_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0).integers(0, 255, (200, 400, 3), dtype=np.uint8)
    assert atlas.thumbnail(finished_run.png(noise)).size == (atlas.THUMBNAIL, 80)
    assert atlas.thumbnail(finished_run.png(noise[:64, :64])).size == (64, 64)
    pairs = pairs_of(2)
    rows = {
        "id": pairs.ids,
        "prompt": pairs.prompts,
        "prompt_id": pairs.prompt_ids,
        "domain": ["all"] * 2,
        "replicate": [0, 1],
        "seed": [0, 1],
        "status": ["ok"] * 2,
        "error": [None] * 2,
        "image": [{"bytes": finished_run.png(noise), "path": None}] * 2,
        "latents": list(np.zeros((2, 4), np.float16)),
    }
    finished_run.write_rows(tmp_path / "images", rows)
    folders = {"seen": (tmp_path / "images", tmp_path / "images")}
    pictures = gallery.Pictures({"seen": pairs}, folders, report.FULL, seed=0)
    assert pictures.link == "figures/pictures"
    assert len(list((report.FULL / "seen").glob("*.jpg"))) == 4
    assert pictures.sheets()["seen"][0]["width"] == atlas.THUMBNAIL


def test_pictures_of_several_sizes_keep_their_own() -> None:
    wide, high = Image.new("RGB", (80, 48), "red"), Image.new("RGB", (48, 80), "blue")
    sheet = atlas.pack([wide, high, wide])
    assert (sheet.width, sheet.height, sheet.sizes) == (80, 80, [(80, 48), (48, 80), (80, 48)])
    assert atlas.pack([wide, wide]).sizes is None
    strip = atlas.strip([np.asarray(wide), np.asarray(high)])
    shown = Image.open(io.BytesIO(base64.b64decode(strip.partition(",")[2])))
    assert shown.size == (128, 80)
    assert shown.convert("RGBA").getpixel((10, 70))[3] == 0  # type: ignore[index]


# --- charts ---


def test_charts_are_the_same_bytes_every_time_and_take_the_page_s_colours() -> None:
    scores = np.random.default_rng(0).normal(size=200)
    drawn = [plots.differences(scores, "unit") for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert not re.search(r"#[0-9a-f]{6}", re.sub(r'"#\w+"|url\(#\w+\)', "", drawn[0]))
    assert "DejaVu" not in drawn[0]
    assert "Histogram of the changes in 200 pairs" in drawn[0]


@pytest.mark.parametrize("scores", [[1.0], [2.0, 2.0, 2.0], [-1.0, 5.0]])
def test_charts_of_few_or_equal_scores(scores: list[float]) -> None:
    assert plots.differences(scores, "unit").startswith("<svg")
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
    drawn = plots.differences([1.0, -2.0], '<script> "unit" & more')
    assert "<script>" not in drawn
    ElementTree.fromstring(plots.standalone(drawn).split("\n", 1)[1])


def test_constant_scores_correlate_with_nothing(run: Path) -> None:
    found = run_files.read(finished_run.make_settings())
    for pairs in found.pairs.values():
        pairs.base["clip"][:] = 1.0
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
        report.run(chosen)
        text = "".join(Page(report.INDEX.read_text()).text.split())  # cells have no space between
        for words in [*told, *facts["warnings"], facts["recommendation"]]:
            assert "".join(words.split()) in text, words


def test_training_is_held_against_what_is_healthy(run: Path) -> None:
    text = Page(report.INDEX.read_text()).text
    assert "Healthy at the end: all 6 numbers" in text
    lines = layout.TRAIN_LOG.read_text().splitlines()
    last = json.loads(lines[-1]) | {"saturation": 0.9}
    layout.TRAIN_LOG.write_text("\n".join([*lines[:-1], json.dumps(last)]) + "\n")
    text = Page(report.run(finished_run.make_settings()).read_text()).text
    assert "Look at saturation: 5 of 6" in text
    assert "most samples have no gradient: lower beta" in text


def test_objectives_without_a_reference_have_fewer_curves(run: Path) -> None:
    lines = [{"step": 10, "loss": 1.0, "grad_norm": 2.0}]
    layout.TRAIN_LOG.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = run_files.read(finished_run.make_settings())
    assert list(charts.training(found.log)) == ["loss", "grad_norm"]


# --- bad input ---


@pytest.mark.parametrize(
    ("path", "stage"),
    [
        (layout.EVALUATION, "tgo evaluate"),
        (layout.PAIRS, "tgo evaluate"),
        (layout.THRESHOLD, "tgo label"),
        (layout.TRAIN_LOG, "tgo train"),
    ],
)
def test_missing_and_damaged_files_are_named(run: Path, path: Path, stage: str) -> None:
    chosen = finished_run.make_settings()
    path.write_text('{"half": ')
    with pytest.raises(InputError, match=f"{re.escape(str(path))}: is damaged .*{stage}"):
        report.run(chosen)
    path.unlink()
    with pytest.raises(InputError, match=f"{re.escape(str(path))}.* is missing.*{stage}"):
        report.run(chosen)


def test_files_of_other_settings_are_refused(run: Path) -> None:
    with pytest.raises(InputError, match=r"label\.reward = pickscore, and params\.yaml says clip"):
        report.run(finished_run.make_settings(label={"reward": "clip"}))
    tests = {"other": "data/prompts/other.jsonl"}
    with pytest.raises(InputError, match=r"evaluation\.json: lacks a test set"):
        report.run(finished_run.make_settings(prompts={"tests": tests}))


def test_files_of_another_model_are_refused(run: Path) -> None:
    """`dvc checkout` may bring back one part of a run and leave another."""
    chosen = finished_run.make_settings()
    tuned = evaluate.folder("tests", "tuned", "hard")
    whole = {path: path.read_bytes() for path in tuned.glob("*.parquet")}
    for path in whole:
        table = shards.read_shard(path)
        other = {b"tgo.fingerprint": b'{"images": {"generator": {"model_sha256": "other"}}}'}
        shards.write_shard(path, table.replace_schema_metadata({**table.schema.metadata, **other}))
    with pytest.raises(InputError, match=r"tuned/hard/.*: is of another model than reports/eval"):
        report.run(chosen)
    for path, content in whole.items():
        path.write_bytes(content)
    sample_strips.belong_to(layout.SAMPLES, "other")
    with pytest.raises(InputError, match="reports/samples: shows the training of another model"):
        report.run(chosen)
    sample_strips.belong_to(layout.SAMPLES, finished_run.TUNED_SHA)
    report.run(chosen)
    facts, pairs = pairs_table.read(layout.PAIRS)
    pairs_table.write(layout.PAIRS, pairs, facts | {"tuned_sha256": "other"})
    with pytest.raises(InputError, match=r"pairs\.parquet: is of another model than"):
        report.run(chosen)
