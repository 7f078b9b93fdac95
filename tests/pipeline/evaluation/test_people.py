"""People compare base and tuned model, and the evaluation, report and card tell what they said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.pipeline import finished_run
from tgo.pipeline import layout
from tgo.pipeline.cards import model_card
from tgo.pipeline.config.settings import Settings
from tgo.pipeline.errors import InputError
from tgo.pipeline.evaluation import compared, people, verdict
from tgo.pipeline.page import report
from tgo.pipeline.rating_page import ask
from tgo.pipeline.rating_page.answers import Answers
from tgo.pipeline.rating_page.kinds import Order
from tgo.pipeline.rating_page.session import Options, Session

FACTS = {
    "base_sha256": finished_run.SHA,
    "tuned_sha256": finished_run.TUNED_SHA,
    "seed": 0,
}


@pytest.fixture
def chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(tmp_path)
    settings = finished_run.make_settings(evaluate={"prompts": 12})
    finished_run.write_run(settings)
    return settings


def answer(share: float, raters: tuple[str, ...] = ("ada", "bob")) -> None:
    """Raters who prefer the tuned image in this share of pairs, and see a tie in the others."""
    topic = ask.about_models(layout.EVALUATED, Order.random, seed=0)
    session = Session(
        topic.questions, Answers(layout.COMPARED, topic.setup), Options(repeat_share=0)
    )
    rng = np.random.default_rng(0)
    liked = {question.key: rng.random() < share for question in topic.questions}
    for rater in raters:
        while asked := session.next(rater):
            tuned = "left" if "tuned" in str(asked.shown[0].path) else "right"
            told = tuned if liked[asked.question.key] else "tie"
            session.answer(rater, asked.question.key, [told], 1.0)


def test_win_rates_by_set(chosen: Settings) -> None:
    answer(0.5)
    found = people.read(layout.COMPARED, FACTS)
    assert set(found) == set(chosen.prompts.tests)
    for row in found.values():
        assert row["raters"] == 2
        assert row["alpha"] == 1.0
        assert row["answers"] == 2 * row["pairs"]  # type: ignore[operator]
        assert 0.5 <= row["win_low"] <= row["win_rate"] <= row["win_high"] <= 1  # type: ignore[operator]
    told = {"a": 0.0, "tie": 0.5, "b": 1.0}
    rows = [json.loads(line) for line in (layout.COMPARED / "metadata.jsonl").open()]
    hard = [told[row["preferred"]] for row in rows if row["question"].startswith("hard/")]
    assert found["hard"]["win_rate"] == pytest.approx(np.mean(hard), abs=0.02)


def test_report_card_and_metrics_tell_of_people(chosen: Settings) -> None:
    answer(1.0, ("ada",))
    finished_run.write_evaluation(chosen)
    page = report.run(chosen).read_text()
    assert "people prefer the tuned image in 100" in page
    assert "1 rater)" in page
    metrics = json.loads(layout.EVALUATION.read_text())
    sentence = verdict.sentence(metrics, "pickscore")
    assert sentence.endswith("people clearly prefer the tuned model on 3 of 3 sets")
    assert compared.headline(metrics, "pickscore")["hard"]["people"] == 1.0
    card = model_card.render(chosen, None, metrics, pipeline="StableDiffusionPipeline")
    assert "preferred the tuned\nmodel in 100" in card


def test_without_reward_models_people_are_the_outcome(chosen: Settings) -> None:
    answer(0.9)
    told = people.read(layout.COMPARED, FACTS)
    one = {"hard": told["hard"]}
    sentence = verdict.sentence({"hard": {}, "generator": {"people": one}}, None)
    assert sentence.startswith("people prefer the tuned model in ")
    lost = one | {"seen": told["seen"] | {"win_low": 0.2, "win_high": 0.4}}
    sentence = verdict.sentence({"hard": {}, "seen": {}, "generator": {"people": lost}}, None)
    assert sentence.endswith("on 1 of 2 sets and the base model on seen")


def test_answers_on_other_models_do_not_count(
    chosen: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    answer(1.0)
    assert people.read(layout.COMPARED, FACTS | {"tuned_sha256": "another"}) == {}
    assert "of other models" in caplog.text
    assert people.read(Path("nowhere"), FACTS) == {}
    (layout.COMPARED / "metadata.jsonl").write_text('{"preferred": "c", "question": "x"}\n')
    with pytest.raises(InputError, match="is no answer about two images"):
        people.read(layout.COMPARED, FACTS)
