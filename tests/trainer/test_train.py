from __future__ import annotations

import itertools
import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.trainer.miniature import Place, make_settings
from tgo.pipeline.config.settings import Settings
from tgo.pipeline.errors import InputError
from tgo.pipeline.generators import load_generator
from tgo.pipeline.generators.base import LogLikelihood, concatenate
from tgo.pipeline.layout import LORA
from tgo.pipeline.storage.locks import hold
from tgo.trainer import train
from tgo.trainer.dataset import LabelledRows
from tgo.trainer.distributed import Ranks
from tgo.trainer.learner import Learner
from tgo.trainer.noise import NetworkInputs
from tgo.trainer.objectives import OBJECTIVES, load_objective
from tgo.trainer.stream import Stream

WHOLE = "unet/diffusion_pytorch_model.safetensors"


def run(settings: Settings, place: Place, name: str = "run") -> dict[str, Any]:
    """Train and return what a run leaves: weights, log lines and text."""
    paths = place.paths(name)
    folder = train.run(settings, paths)
    text = paths.log.read_text()
    return {
        "weights": load_file(folder / (LORA if settings.train.lora else WHOLE)),
        "lines": [json.loads(line) for line in text.splitlines()],
        "text": text,
        "folder": folder,
    }


def same(left: dict[str, Any], right: dict[str, Any]) -> bool:
    names = left["weights"].keys()
    return (
        left["text"] == right["text"]
        and names == right["weights"].keys()
        and all(torch.equal(left["weights"][name], right["weights"][name]) for name in names)
    )


class CrashError(Exception):
    """Stands for whatever may end a process."""


def crash_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    original = Learner.step

    def crashing(self: Learner, number: int, batch: Any) -> None:
        if number == step:
            raise CrashError
        original(self, number, batch)

    monkeypatch.setattr(Learner, "step", crashing)


def make_learner(settings: Settings, place: Place) -> tuple[Learner, Stream]:
    torch.set_num_threads(settings.threads)
    objective = load_objective(settings.train)
    rows = LabelledRows(
        **place.inputs,
        rows=objective.rows,
        per_row_value=objective.per_row_value,
    )
    ranks = Ranks(torch.device("cpu"))
    family = train._load_family(settings, rows, ranks)
    learner = Learner(family, objective, settings.train, rows.unconditional, ranks)
    return learner, Stream(rows, seed=0, batch_size=settings.train.batch_size)


def test_policy_and_reference_start_equal_and_see_one_corruption(model: Path, place: Place) -> None:
    learner, stream = make_learner(make_settings(model), place)
    batch = next(stream.batches())
    terms = learner.terms(1, batch)
    assert torch.equal(terms.log_ratio, torch.zeros(8))
    assert terms.log_likelihood.requires_grad
    assert not terms.reference.requires_grad  # type: ignore[union-attr]
    assert terms.log_likelihood.std() > 0
    again, other = learner.terms(1, batch), learner.terms(2, batch)
    assert torch.equal(terms.log_likelihood, again.log_likelihood)
    assert not torch.equal(terms.log_likelihood, other.log_likelihood)


def test_a_step_moves_the_policy_and_never_the_reference(model: Path, place: Place) -> None:
    learner, stream = make_learner(make_settings(model), place)
    for number, batch in enumerate(itertools.islice(stream.batches(), 3), start=1):
        before = learner.terms(9, batch)
        learner.step(number, batch)
        after = learner.terms(9, batch)
        assert torch.equal(before.reference, after.reference)  # type: ignore[arg-type]
        assert not torch.equal(before.log_likelihood, after.log_likelihood)


def test_dropped_conditions_become_the_empty_prompt(
    model: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner, stream = make_learner(make_settings(model, prompt_dropout=0.5), place)
    seen = []
    original = learner._log_likelihood

    def noting(network: torch.nn.Module, given: NetworkInputs) -> LogLikelihood:
        seen.append(given.conditions)
        return original(network, given)

    monkeypatch.setattr(learner, "_log_likelihood", noting)
    batches = list(itertools.islice(stream.batches(), 10))
    for number, batch in enumerate(batches):
        learner.terms(number, batch)
    policy, reference = seen[0::2], seen[1::2]
    assert all(a is b for a, b in zip(policy, reference, strict=True))
    given, fed = (
        concatenate(parts)["embeddings"] for parts in ([b.conditions for b in batches], policy)
    )
    dropped = (fed == -1).all(dim=(1, 2))
    assert 20 < dropped.sum() < 60  # of 80
    assert torch.equal(fed[~dropped], given[~dropped])


def test_the_moving_average_is_that_of_the_weights(model: Path, place: Place) -> None:
    learner, stream = make_learner(make_settings(model, ema_decay=0.75), place)
    expected = {name: p.detach().clone() for name, p in learner.state()["network"].items()}
    for number, batch in enumerate(itertools.islice(stream.batches(), 3), start=1):
        learner.step(number, batch)
        for name, parameter in learner.state()["network"].items():
            expected[name] = 0.75 * expected[name] + 0.25 * parameter.detach()
    averaged = dict(learner.averaged().named_parameters())
    for name, value in expected.items():
        torch.testing.assert_close(averaged[name].detach(), value)


def test_training_separates_good_from_bad(model: Path, place: Place) -> None:
    settings = make_settings(model, steps=60, log_every=20, learning_rate=3e-3, seed=1)
    lines = run(settings, place)["lines"]
    assert [(line["step"], line["samples_seen"]) for line in lines] == [
        (20, 160),
        (40, 320),
        (60, 480),
    ]
    first, last = lines[0], lines[-1]
    assert last["margin"] > first["margin"] > 0
    assert last["margin"] > 1
    assert last["accuracy"] > 0.8
    assert last["loss"] < first["loss"]
    assert last["log_ratio_positive"] > last["log_ratio_negative"]
    assert last["grad_factor"] < first["grad_factor"] < 0.5


def test_sft_trains_on_positives_without_a_reference(model: Path, place: Place) -> None:
    result = run(make_settings(model, objective="sft", steps=30, log_every=10), place)
    keys = {
        "step",
        "samples_seen",
        "epoch",
        "learning_rate",
        "loss",
        "grad_norm",
        "log_likelihood_positive",
    }
    assert result["lines"][-1].keys() == keys | {"unhealthy"}
    assert result["lines"][-1]["loss"] < result["lines"][0]["loss"]


def test_stock_diffusers_loads_and_samples_the_result(model: Path, place: Place) -> None:
    from diffusers import StableDiffusionPipeline

    result = run(make_settings(model, steps=2), place)
    pipe = StableDiffusionPipeline.from_pretrained(result["folder"], safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    images = pipe("a red circle", num_inference_steps=2, output_type="np").images
    assert images.shape == (1, 16, 16, 3)
    loaded = pipe.unet.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in result["weights"].items())
    assert not list(result["folder"].rglob("*.bin"))
    assert [path.name for path in result["folder"].parent.glob(".tuned*")] == []


@pytest.mark.parametrize("crash", [1, 5, 6, 9, 12])
def test_a_run_that_crashed_ends_like_one_that_did_not(
    model: Path, place: Place, monkeypatch: pytest.MonkeyPatch, crash: int
) -> None:
    settings = make_settings(model, log_every=4, checkpoint_every=5)
    whole = run(settings, place, "whole")
    with monkeypatch.context() as patch:
        crash_at(patch, crash)
        with pytest.raises(CrashError):
            run(settings, place)
    assert same(run(settings, place), whole)
    assert same(run(settings, place), whole)  # and once more, with nothing left to do


def test_a_changed_number_of_workers_or_steps_continues(
    model: Path, place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    whole = run(make_settings(model, steps=14), place, "whole")
    short = run(make_settings(model, steps=7, workers=2), place)
    assert [line["step"] for line in short["lines"]] == [3, 6, 7]
    assert same(run(make_settings(model, steps=14, checkpoint_every=4), place), whole)
    assert "continuing after step 7 of 14" in caplog.text


def test_an_earlier_checkpoint_is_published_and_the_later_ones_come_back(
    model: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: dict[str, Any] = {"checkpoint_every": 4, "keep": {"last": 1, "every": 4}}
    whole = run(make_settings(model, steps=12, **kept), place)
    early = run(make_settings(model, steps=8, **kept), place, "early")
    monkeypatch.setattr(Learner, "step", None)  # none is taken any more
    assert same(run(make_settings(model, steps=8, **kept), place), early)
    assert same(run(make_settings(model, steps=12, **kept), place), whole)


def test_other_settings_or_labels_start_afresh(
    model: Path, place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    run(make_settings(model, seed=1), place)
    fresh = run(make_settings(model, seed=2), place, "fresh")
    caplog.clear()
    assert same(run(make_settings(model, seed=2), place), fresh)
    said = caplog.text
    assert "step-00000012: of another run (train.seed was 1, is 2); set aside in " in said
    assert "continuing" not in said


def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    model: Path, place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    settings = make_settings(model)
    whole = run(settings, place)
    path = place.paths().checkpoints / "step-00000012" / "ema.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    assert same(run(settings, place), whole)
    said = caplog.text
    assert (
        "step-00000012: damaged (ema.safetensors is not as it was written); set aside in " in said
    )
    assert "continuing after step 10 of 12" in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_after_a_checkpoint(
    model: Path, place: Place, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    settings = make_settings(model)
    whole = run(settings, place, "whole")
    original = Learner.step

    def signalled(self: Learner, step: int, batch: Any) -> None:
        if step == 7:
            os.kill(os.getpid(), number)
        original(self, step, batch)

    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", signalled)
        with pytest.raises(SystemExit) as stopped:
            run(settings, place)
    assert stopped.value.code == 128 + number
    assert signal.getsignal(number) is before
    assert (place.paths().checkpoints / "step-00000007").is_dir()
    assert not place.paths().tuned.exists()
    assert same(run(settings, place), whole)


def test_a_run_outside_the_main_thread_works(model: Path, place: Place) -> None:
    results: list[dict[str, Any]] = []
    work = threading.Thread(target=lambda: results.append(run(make_settings(model), place)))
    work.start()
    work.join()
    assert len(results) == 1


def test_a_loss_that_diverges_keeps_the_last_good_checkpoint(
    model: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Learner.terms

    def poisoned(self: Learner, number: int, *rest: Any) -> Any:
        terms = original(self, number, *rest)
        factor = float("nan") if number == 8 else 1.0
        return terms._replace(log_likelihood=terms.log_likelihood * factor)

    monkeypatch.setattr(Learner, "terms", poisoned)
    reason = r"diverged at step 8: the loss was nan .*; the last good checkpoint is .*00000005"
    with pytest.raises(InputError, match=reason):
        run(make_settings(model), place)
    checkpoints = place.paths().checkpoints
    assert [path.name for path in checkpoints.iterdir()] == ["step-00000005"]
    assert not place.paths().tuned.exists()


def test_a_second_run_is_told_who_holds_the_folder(model: Path, place: Place) -> None:
    with (
        hold(place.paths().checkpoints),
        pytest.raises(InputError, match=rf"checkpoints: is being written by process {os.getpid()}"),
    ):
        run(make_settings(model), place)


def test_bad_input_is_named_before_anything_is_written(model: Path, place: Place) -> None:
    with pytest.raises(InputError, match=r"train\.objective: unknown objective 'dpp'"):
        run(make_settings(model, objective="dpp"), place)
    with pytest.raises(InputError, match=r"train\.batch_size: 150 is more than the 108 usable"):
        run(make_settings(model, batch_size=150), place)
    with pytest.raises(InputError, match=r"nowhere: no such model folder"):
        run(make_settings(model / "nowhere"), place)
    written = [path.name for path in (place.root / "run").iterdir()]
    assert written == [".checkpoints.lock"]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_trains_and_resumes_to_the_bit(
    model: Path, place: Place, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    settings = make_settings(model, objective=name, steps=5, checkpoint_every=2, log_every=2)
    whole = run(settings, place, "whole")
    with monkeypatch.context() as patch:
        crash_at(patch, 4)
        with pytest.raises(CrashError):
            run(settings, place)
    assert same(run(settings, place), whole)


def test_an_automatic_beta_and_a_renewed_reference_resume_to_the_bit(
    model: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings(
        model, objective="bco", beta="auto", reference="epoch", batch_size=50, steps=6,
        checkpoint_every=2, log_every=2,
    )  # fmt: skip
    whole = run(settings, place, "whole")
    assert whole["lines"][-1]["beta"] != whole["lines"][0]["beta"]
    with monkeypatch.context() as patch:
        crash_at(patch, 6)
        with pytest.raises(CrashError):
            run(settings, place)
    assert (place.paths().checkpoints / "step-00000004/reference.safetensors").is_file()
    assert same(run(settings, place), whole)


def test_a_renewed_reference_is_the_policy_of_that_moment(model: Path, place: Place) -> None:
    learner, stream = make_learner(make_settings(model, reference="epoch"), place)
    batches = list(itertools.islice(stream.batches(), 3))
    for number, batch in enumerate(batches, start=1):
        learner.step(number, batch)
    assert not torch.equal(learner.terms(9, batches[0]).log_ratio, torch.zeros(8))
    learner.renew_reference()
    assert torch.equal(learner.terms(9, batches[0]).log_ratio, torch.zeros(8))


def test_both_images_of_a_pair_see_one_corruption(
    model: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner, stream = make_learner(make_settings(model, objective="dpo"), place)
    seen = []
    original = learner._log_likelihood

    def noting(network: torch.nn.Module, given: NetworkInputs) -> LogLikelihood:
        seen.append((given.conditions, given.corruption))
        return original(network, given)

    monkeypatch.setattr(learner, "_log_likelihood", noting)
    terms = learner.terms(1, next(stream.batches()))
    for conditions, corruption in seen:
        for part in (conditions["embeddings"], *corruption):
            assert torch.equal(part[0::2], part[1::2])
            assert not torch.equal(part[0], part[2])
    assert terms.prediction_distance is not None
    assert not terms.prediction_distance.requires_grad


def test_the_gap_is_the_distance_of_the_predictions(model: Path, place: Place) -> None:
    learner, stream = make_learner(make_settings(model, objective="nft"), place)
    batches = list(itertools.islice(stream.batches(), 2))
    first = learner.terms(1, batches[0])
    assert first.prediction_distance is not None
    assert torch.equal(first.prediction_distance.detach(), torch.zeros(8))
    assert first.prediction_distance.requires_grad
    learner.step(1, batches[0])
    prediction_distance = learner.terms(2, batches[1]).prediction_distance
    assert prediction_distance is not None
    assert (prediction_distance > 0).all()


def test_negatives_are_conditioned_on_their_phrase(model: Path, place: Place) -> None:
    from tgo.trainer.csft_prompts import prefixed_tables

    folder = place.root / "conditions"
    rows = LabelledRows(**place.inputs)
    family = load_generator(make_settings(model).generator)
    tables = prefixed_tables(
        family, "red ", place.inputs["scored"], place.inputs["embeddings"], folder
    )
    rows.condition_negatives(tables)
    expected = family.encode_prompts(["red p0.0", "red p0.1"])["embeddings"].half()
    found = tables[0].conditions["embeddings"][:2]
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=1e-3)
    batch = next(Stream(rows, seed=0, batch_size=16).batches())
    embeddings = batch.conditions["embeddings"]
    plain = (embeddings == embeddings[:, :1, :1]).all(dim=(1, 2))  # ours are constant
    assert torch.equal(plain, batch.target == 1)


def test_a_run_that_forgets_is_stopped_with_a_good_checkpoint(model: Path, place: Place) -> None:
    limits = {"likelihood_fall": 0.3, "accuracy": None, "held_out_rise": None, "patience": 2}
    settings = make_settings(
        model, learning_rate=0.1, steps=60, checkpoint_every=1, log_every=2, collapse=limits
    )
    with pytest.raises(
        InputError, match=r"collapsed by step \d+: the likelihood of positives fell"
    ):
        run(settings, place)
    lines = [json.loads(line) for line in place.paths().log.read_text().splitlines()]
    falls = [line["step"] for line in lines if line["likelihood_change"] < -0.3]
    kept = [int(p.name.split("-")[1]) for p in place.paths().checkpoints.glob("step-*")]
    assert max(kept) < falls[-2]
    assert not place.paths().tuned.exists()
