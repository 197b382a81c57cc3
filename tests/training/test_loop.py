import contextlib
import copy
import dataclasses
import json
import shutil
from typing import Any

import numpy as np
import pytest
import torch

from medray.cohort.cohort import Cohort
from medray.errors import InputError
from medray.inference.predictor import Predictor
from medray.preprocessing.bricks import read_case, write_case
from medray.preprocessing.planning import plan
from medray.preprocessing.prepare import Preparation, prepare_case
from medray.storage.location import locate
from medray.tasks.task import task_of
from medray.training.checkpoint import load_learner, save_learner
from medray.training.config import FitConfig
from medray.training.data import Batches
from medray.training.learner import Learner
from medray.training.loop import run_epochs
from medray.training.team import Team
from tests.phantoms import SMALL_PLAN


def train(recipe, cases, config, learner=None, stop=None):
    learner = learner or Learner.fresh(recipe, config)
    saved: dict[str, Any] = {}

    def on_epoch(record):
        if record.epoch == stop:
            saved.update(copy.deepcopy({"weights": learner.judged.state_dict(), "state": learner.state()}))
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        run_epochs(learner, Batches(cases[:7], recipe, config), cases[7:], on_epoch)
    return learner, saved


def test_it_learns(recipe, cases):
    torch.set_num_threads(2)
    learner, _ = train(recipe, cases, FitConfig(epochs=3, steps=25, learning_rate=1e-2))
    first, last = learner.history[0], learner.history[-1]
    assert last["loss"] < 0.7 * first["loss"]
    assert last["scores"]["ball"] > 0.8
    assert 0 <= last["wait_share"] < 1


@pytest.mark.parametrize("settings", [{}, {"average": 0.9, "fall": "cosine"}, {"accumulate": 2}, {"channels_last": True}])
def test_a_resumed_run_ends_where_an_unbroken_one_does(recipe, cases, settings):
    config = FitConfig(epochs=3, steps=4, mixed=False, **settings)
    unbroken, _ = train(recipe, cases, config)
    _, saved = train(recipe, cases, config, stop=1)
    resumed = Learner.fresh(recipe, config)
    import io

    buffer = io.BytesIO()
    torch.save(saved["state"], buffer)
    buffer.seek(0)
    resumed.restore(saved["weights"], torch.load(buffer, weights_only=True))
    train(recipe, cases, config, learner=resumed)
    for name, tensor in unbroken.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name
    for name, tensor in unbroken.judged.state_dict().items():
        assert torch.equal(tensor, resumed.judged.state_dict()[name]), name
    assert [r["loss"] for r in resumed.history] == [r["loss"] for r in unbroken.history]


def test_accumulated_batches_are_one_step_of_their_mean(recipe, cases):
    """Two batches with half the gradient each: what one batch of both would give, but for batch norm's statistics."""
    config = FitConfig(epochs=1, steps=1, mixed=False, accumulate=2)
    learner = Learner.fresh(recipe, config)
    before = [weight.detach().clone() for weight in learner.model.parameters()]
    drawn = list(Batches(cases, recipe, config).epoch(0))
    assert len(drawn) == 2
    train(recipe, cases, config, learner=learner)
    task, other = task_of(recipe), Learner.fresh(recipe, config)
    torch.stack([task.loss(other.model.train()(batch.given), batch.target) / 2 for batch in drawn]).sum().backward()
    other.advance(config.clip)
    assert learner.history[0]["loss"] > 0
    found, expected, start = (
        torch.cat([weight.detach().flatten() for weight in weights])
        for weights in (learner.model.parameters(), other.model.parameters(), before)
    )
    assert torch.isclose(found, expected, atol=1e-6).float().mean() > 0.95, "biases under a batch norm have noise for gradients"
    assert torch.isclose(found, start, atol=1e-6).float().mean() < 0.05


def test_averaged_weights_are_what_is_judged(recipe, cases):
    learner, _ = train(recipe, cases, FitConfig(epochs=1, steps=6, average=0.5))
    pairs = list(zip(learner.model.parameters(), learner.judged.parameters(), strict=True))
    assert any(not torch.equal(raw, averaged) for raw, averaged in pairs)
    plain, _ = train(recipe, cases, FitConfig(epochs=1, steps=6))
    assert plain.judged is plain.model


@pytest.mark.parametrize("fall", ["poly", "cosine"])
def test_the_learning_rate_rises_and_falls(recipe, fall):
    learner = Learner.fresh(recipe, FitConfig(epochs=2, steps=50, warmup=10, fall=fall, learning_rate=1.0))
    rates = []
    for _ in range(100):
        rates.append(learner.optimizer.param_groups[0]["lr"])
        learner.optimizer.step()
        learner.schedule.step()
    assert rates[0] == pytest.approx(0.1, abs=0.02)
    assert max(rates) > 0.85
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0.005 < rates[-1] < 0.05


def test_epochs_and_ranks_draw_different_patches_and_repeat_their_own(recipe, cases):
    config = FitConfig(steps=2)

    def drawn(rank, epoch):
        return [batch.given.numpy() for batch in Batches(cases, recipe, config, Team(rank, 2)).epoch(epoch)]

    first = drawn(0, 0)
    assert len(first) == 2
    assert np.array_equal(first[0], drawn(0, 0)[0])
    assert not np.array_equal(first[0], drawn(1, 0)[0])
    assert not np.array_equal(first[0], drawn(0, 1)[0])
    assert first[0].shape == (2, 1, 16, 16, 16)


@pytest.mark.parametrize("makers", [2, 3, 9])
def test_several_makers_make_the_same_batches_in_the_same_order(recipe, cases, makers):
    config = FitConfig(steps=3, accumulate=2)
    alone, several = (list(Batches(cases, recipe, config, makers=count).epoch(1)) for count in (1, makers))
    assert len(alone) == len(several) == 6
    for one, other in zip(alone, several, strict=True):
        assert one.series == other.series
        assert torch.equal(one.given, other.given)
        assert torch.equal(one.target, other.target)


def test_a_loss_that_is_no_number_stops_the_run(recipe, cases, tmp_path):
    place = locate(tmp_path).join("broken.arrow")
    write_case(place, "broken", np.full_like(cases[0].image, np.nan), cases[0].mask)
    broken = [read_case(place)]
    with pytest.raises(InputError, match="the loss became nan on series broken, broken: look"):
        train(recipe, broken, FitConfig(epochs=1, steps=3))


def test_a_diagnosis_learns_what_its_probabilities_mean(phantom_cohort, tmp_path):
    rows = [dataclasses.replace(row, findings=("nodule",) if n % 2 else ()) for n, row in enumerate(phantom_cohort.rows)]
    cohort = Cohort(phantom_cohort.root, phantom_cohort.index)
    cohort.__dict__["rows"] = tuple(rows)
    recipe = plan(cohort, task="diagnosis", changes={"network": {"name": "resnet", "features": [4, 4, 8, 8]}, "batch": 2})
    work = Preparation(cohort, recipe, locate(tmp_path))
    cases = [read_case(work.target.join(prepare_case(work, row)[1])) for row in rows]
    learner, _ = train(recipe, cases, FitConfig(epochs=2, steps=2))
    for record in learner.history:
        assert record["calibration"].keys() == {"nodule"}
        assert record["calibration"]["nodule"]["slope"] > 0
    json.dumps(learner.history)


def test_gradients_that_are_no_numbers_stop_the_run_before_its_step(recipe, cases):
    config = FitConfig(epochs=1, steps=2, mixed=False, clip=1.0)
    learner = Learner.fresh(recipe, config)
    before = [weight.detach().clone() for weight in learner.model.parameters()]
    next(iter(learner.model.parameters())).register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(InputError, match=r"gradients are no numbers on series \w+"):
        train(recipe, cases, config, learner=learner)
    assert all(torch.equal(a, b) for a, b in zip(before, learner.model.parameters(), strict=True))


def test_a_network_of_slices_is_trained_on_volumes_and_answers_for_all_of_one(phantom_cohort, cases):
    flat = plan(phantom_cohort, changes=SMALL_PLAN | {"patch": [16, 16, 1]})
    learner, _ = train(flat, cases, FitConfig(epochs=1, steps=3, mixed=False))
    assert np.isfinite(learner.history[0]["loss"])
    volume = phantom_cohort.volume(phantom_cohort.rows[0])
    predictor = Predictor(learner.judged.eval(), flat, torch.device("cpu"))
    assert predictor.predict(volume).mask.shape == volume.shape


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles for CPUs with a C++ compiler")
def test_a_compiled_network_learns_the_same(recipe, cases):
    settings: dict[str, Any] = {"epochs": 1, "steps": 3, "mixed": False}
    plain, _ = train(recipe, cases, FitConfig(**settings))
    compiled, _ = train(recipe, cases, FitConfig(**settings, compile=True))
    assert compiled.history[0]["loss"] == pytest.approx(plain.history[0]["loss"], rel=1e-3)
    assert list(compiled.judged.state_dict()) == list(plain.judged.state_dict()), "the weights' names stay"


def test_one_lucky_epoch_does_not_win(recipe, cases, monkeypatch):
    """Ten people's AUC is 1 by chance now and then: the best epoch has company."""
    said = iter((0.5, 1.0, 0.7, 0.9, 0.9, 0.9))
    monkeypatch.setattr("medray.training.loop._scores", lambda task, records: {"ball": next(said)})
    learner, _ = train(recipe, cases, FitConfig(epochs=6, steps=1))
    assert [record["standing"] for record in learner.history] == pytest.approx([0.5, 0.75, 0.725, 0.8125, 0.85625, 0.878125])


@pytest.mark.parametrize("deep", [False, True])
def test_the_network_of_gpus_is_saved_and_goes_on(phantom_cohort, cases, tmp_path, deep):
    network = {"name": "dynunet", "features": [4, 8, 16], "deep_supervision": deep}
    recipe = plan(phantom_cohort, changes=SMALL_PLAN | {"network": network})
    config = FitConfig(epochs=1, steps=2, average=0.9, channels_last=True)
    learner, _ = train(recipe, cases, config)
    save_learner(tmp_path, learner)
    other = Learner.fresh(recipe, config)
    load_learner(tmp_path, other)
    for name, tensor in learner.judged.state_dict().items():
        assert torch.equal(tensor, other.judged.state_dict()[name]), name
