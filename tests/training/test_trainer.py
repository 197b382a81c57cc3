import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest
import ray
import ray.train
import torch
from ray.exceptions import RayActorError
from safetensors.torch import load_file

import medray
from medray.errors import ConfigError, InputError, NotFoundError, ResourceError
from medray.preprocessing.bricks import read_case, write_case
from medray.preprocessing.prepared import commit_prepared
from medray.storage.location import locate
from medray.training.data import Batches
from medray.training.learner import Learner, begin_with
from medray.training.loop import run_epochs
from medray.training.trainer import _persistent, _watched
from tests.phantoms import SMALL_PLAN

pytestmark = pytest.mark.ray
SHORT: dict[str, Any] = {"epochs": 4, "steps": 3, "mixed": False}


@pytest.fixture(scope="module")
def prepared(local_ray, phantom_cohort, tmp_path_factory):
    recipe = medray.plan(phantom_cohort, changes=SMALL_PLAN)
    return medray.prepare(phantom_cohort, recipe, tmp_path_factory.mktemp("prepared"))


def test_fit_with_two_workers_leaves_the_best_epoch(prepared, tmp_path, monkeypatch):
    told: list[Any] = []
    for name in ("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"):
        monkeypatch.delenv(name)
    environment = dict(os.environ)
    run = medray.fit(prepared, medray.FitConfig(**SHORT), name="ball", workers=2, runs=tmp_path, on_epoch=told.append)
    assert dict(os.environ) == environment, "what Ray Train reads from it is taken away again"
    begins = [run.record["started"], *(record["began"] for record in told), time.time()]
    assert begins == sorted(begins)
    assert [record["epoch"] for record in told] == [0, 1, 2, 3]
    assert run.record["best_epoch"] == max((record["standing"], record["epoch"]) for record in run.history)[1]
    assert set(run.record["subjects"]["train"]).isdisjoint(run.record["subjects"]["test"])
    assert medray.Predictor.load(tmp_path / "ball" / "1" / "model").plan == prepared.plan
    assert json.loads((tmp_path / "ball" / "1" / "run.json").read_text())["versions"]["medray"] == medray.__version__
    assert len(list((tmp_path / "ball" / "1" / "pictures").glob("epoch-*.png"))) == 4
    assert all(record["samples_per_second"] > 0 for record in run.history)
    again = medray.fit(prepared, medray.FitConfig(**SHORT), name="ball", workers=2, runs=tmp_path)
    assert again.folder == run.folder
    assert again.record == run.record
    with pytest.raises(ConfigError, match="workers=0: a fit needs"):
        medray.fit(prepared, name="ball", workers=0, runs=tmp_path)


def test_a_fit_begins_with_the_weights_that_it_is_given(prepared, tmp_path):
    first = medray.fit(prepared, medray.FitConfig(**SHORT), name="ball", runs=tmp_path)
    still = medray.FitConfig(epochs=1, steps=1, learning_rate=1e-12, weight_decay=0, mixed=False)
    second = medray.fit(prepared, still, name="ball", runs=tmp_path, start=first.model)
    other = medray.fit(prepared, still, name="ball", runs=tmp_path)
    assert second.record["start"].startswith("weights ")
    assert "start" not in other.record
    assert second.folder != other.folder, "with other weights to begin with it is another fit"
    before, after, fresh = (load_file(f"{run.model.path}/weights.safetensors") for run in (first, second, other))
    learned = [name for name in before if name.endswith("weight")]
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in learned)
    assert not all(torch.allclose(before[name], fresh[name], atol=1e-6) for name in learned)
    again = medray.fit(prepared, still, name="ball", runs=tmp_path, start=first.model)
    assert again.folder != second.folder, "another fit was the last one"
    with pytest.raises(InputError, match="another network"):
        begin_with(torch.nn.Linear(2, 2), before)
    with pytest.raises(NotFoundError):
        medray.fit(prepared, still, name="ball", runs=tmp_path, start=tmp_path)


def test_an_error_of_the_caller_s_own_function_costs_no_training(tmp_path):
    told = []

    def fail(record):
        told.append(record["epoch"])
        raise OSError("the caller's disk is full")

    def train():
        with _watched(locate(tmp_path), fail):
            (tmp_path / "history.json").write_text('[{"epoch": 0}, {"epoch": 1}]')

    with pytest.raises(OSError, match="the caller's disk"):
        train()
    assert told == [0, 1]


def test_too_few_cpus_is_an_error_and_no_wait(prepared, tmp_path):
    with pytest.raises(ResourceError, match="needs 5 free CPUs and the cluster has 2"):
        medray.fit(prepared, name="ball", workers=5, runs=tmp_path)


def test_nothing_to_validate_on(prepared, tmp_path):
    only_train = commit_prepared(locate(tmp_path), "c0", prepared.plan, tuple(prepared.of("train")))
    with pytest.raises(InputError, match="none to validate on"):
        medray.fit(only_train, name="ball", runs=tmp_path)


def unbroken_weights(prepared):
    """Train with the plain loop: no Ray, no kill, the same threads."""
    torch.set_num_threads(2)
    config = medray.FitConfig(epochs=6, steps=3, mixed=False)
    train, val = ([read_case(prepared.root.join(row.file)) for row in prepared.of(split)] for split in ("train", "val"))
    learner, epochs = Learner.fresh(prepared.plan, config), []

    def keep(record):
        epochs.append((record.score, record.epoch, {k: v.clone() for k, v in learner.model.state_dict().items()}))

    run_epochs(learner, Batches(train, prepared.plan, config), val, keep)
    _, best, weights = max(epochs, key=lambda item: item[:2])
    return weights, best


SCRIPT = """
import medray
from medray.preprocessing.prepared import open_prepared
medray.fit(open_prepared({prepared!r}), medray.FitConfig(epochs=6, steps=3, mixed=False), name="ball", runs={runs!r})
"""


@pytest.mark.slow
def test_a_fit_whose_driver_was_killed_resumes_to_the_same_weights(prepared, tmp_path):
    code = SCRIPT.format(prepared=prepared.root.path, runs=str(tmp_path / "broken"))
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    history = tmp_path / "broken" / "ball" / "1" / "history.json"
    deadline = time.time() + 120
    while time.time() < deadline and not (history.exists() and len(json.loads(history.read_text())) >= 2):
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert history.exists()
    assert not (tmp_path / "broken" / "ball" / "1" / "run.json").exists()
    before = [record["began"] for record in json.loads(history.read_text())]
    medray.fit(prepared, medray.FitConfig(epochs=6, steps=3, mixed=False), name="ball", runs=tmp_path / "broken")
    record = json.loads((tmp_path / "broken" / "ball" / "1" / "run.json").read_text())
    assert len(record["history"]) == 6
    kept = [record["began"] for record in record["history"]][: len(before) - 1]
    assert kept, "two epochs were done"
    assert kept == before[:-1], "one epoch at most is trained again"
    expected, best = unbroken_weights(prepared)
    assert record["best_epoch"] == best
    found = load_file(tmp_path / "broken/ball/1/model/weights.safetensors")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_worker_that_died_before_its_first_step_is_one_failure():
    def train():
        tried.append(len(tried))
        if len(tried) <= deaths:
            raise ray.train.ControllerError(cause)
        return "trained"

    tried: list[int] = []
    cause: Exception = RayActorError()
    deaths = 2
    assert _persistent(train, 2) == "trained"
    deaths = 6
    with pytest.raises(ray.train.ControllerError):
        _persistent(train, 2)
    assert len(tried) == 6
    cause, deaths = ValueError("a bug"), 9
    with pytest.raises(ray.train.ControllerError):
        _persistent(train, 2)
    assert len(tried) == 7


def test_a_loss_that_is_no_number_ends_the_fit_with_its_series(phantom_cohort, tmp_path):
    recipe = medray.plan(phantom_cohort, changes=SMALL_PLAN)
    whole = medray.prepare(phantom_cohort, recipe, tmp_path / "prepared")
    for row in whole.of("train"):
        case = read_case(whole.root.join(row.file))
        write_case(whole.root.join(row.file), case.series, np.full_like(case.image, np.nan), case.mask, present=case.present)
    config = medray.FitConfig(**SHORT, max_failures=0)
    with pytest.raises(InputError, match=r"the loss became nan on series \w+.*: look at them, or lower learning_rate"):
        medray.fit(whole, config, name="ball", runs=tmp_path / "runs")
    assert not (tmp_path / "runs" / "ball" / "1" / "run.json").exists()
