"""Searches on a real cluster: two methods, a kill, and what is left."""

import json
import os
import signal
import subprocess
import sys
import threading
from typing import Any

import pytest

import medray
from medray.errors import ConfigError
from medray.training.space import read_space
from tests.phantoms import SMALL_PLAN

pytestmark = pytest.mark.ray
SPACE = read_space({"fit": {"learning_rate": {"low": 1e-3, "high": 2e-2, "log": True}}, "plan": {"batch": {"choose": [1, 2]}}})


@pytest.fixture(scope="module")
def prepared(local_ray, phantom_cohort, tmp_path_factory):
    recipe = medray.plan(phantom_cohort, changes=SMALL_PLAN | {"network": {"name": "unet", "features": [4, 8]}})
    return medray.prepare(phantom_cohort, recipe, tmp_path_factory.mktemp("prepared"))


def test_a_search_ends_bad_trials_early_and_leaves_the_best_as_a_run(prepared, tmp_path):
    told: list[Any] = []
    lock = threading.Lock()

    def on_trial(record):  # what holds a lock, as a progress bar does, can't be pickled
        with lock:
            told.append(record)

    config = medray.FitConfig(epochs=9, steps=2, mixed=False)
    run = medray.tune(prepared, SPACE, config, name="ball", trials=6, runs=tmp_path, on_trial=on_trial)
    trials = run.record["trials"]
    assert len(trials) == 6
    assert min(trial["epochs"] for trial in trials) < 9, "ASHA ended some early"
    assert max(trial["epochs"] for trial in trials) == 9
    assert len(told) == sum(trial["epochs"] for trial in trials)
    best = max(trials, key=lambda trial: trial["score"])
    assert run.record["chosen"] == best["chosen"]
    assert run.record["config"]["learning_rate"] == best["chosen"]["fit.learning_rate"]
    assert medray.Predictor.load(tmp_path / "ball.search" / "1" / "model").plan.batch == best["chosen"]["plan.batch"]
    assert max(record["standing"] for record in run.history) == pytest.approx(best["score"])
    version = medray.Registry().register(medray.card_from_run(run, plan=run.plan), run.model)
    assert str(version) == "ball/1"
    assert medray.tune(prepared, SPACE, config, name="ball", trials=6, runs=tmp_path).folder == run.folder


@pytest.mark.slow
def test_a_population_copies_its_best(prepared, tmp_path):
    told: list[Any] = []
    config = medray.FitConfig(epochs=6, steps=2, mixed=False)
    table = {
        "learning_rate": {"low": 1e-3, "high": 2e-3},
        "average": {"choose": [0.0, 0.5]},
        "fall": {"choose": ["poly", "cosine"]},
    }
    space = read_space({"fit": table, "plan": {"batch": {"choose": [1, 2]}}})
    run = medray.tune(prepared, space, config, name="ball", trials=4, method="population", runs=tmp_path, on_trial=told.append)
    rates: dict[str, set[float]] = {}
    for record in told:
        rates.setdefault(record["trial"], set()).add(record["chosen"]["fit.learning_rate"])
    assert len(rates) == 4
    assert any(len(found) > 1 for found in rates.values()), "a trial took over another one's weights and changed its rate"
    assert all(1e-3 <= rate <= 2e-3 for found in rates.values() for rate in found), "nothing leaves the space"
    assert run.record["failed"] == 0
    assert run.record["scores"]


def test_impossible_searches_are_refused(prepared, tmp_path):
    with pytest.raises(ConfigError, match="a search needs one trial"):
        medray.tune(prepared, SPACE, name="ball", trials=0, runs=tmp_path)
    with pytest.raises(ConfigError, match="asha or population"):
        medray.tune(prepared, SPACE, name="ball", trials=2, method="grid", runs=tmp_path)
    only_plan = read_space({"plan": {"batch": {"choose": [1, 2]}}})
    with pytest.raises(ConfigError, match="changes fit fields"):
        medray.tune(prepared, only_plan, name="ball", trials=2, method="population", runs=tmp_path)


SEARCH = """
import sys
import medray
from medray.preprocessing.prepared import open_prepared
from medray.training.space import read_space
import json
space = read_space(json.loads(sys.argv[3]))
config = medray.FitConfig(epochs=4, steps=8, mixed=False)
run = medray.tune(open_prepared(sys.argv[1]), space, config, name="ball", trials=5, runs=sys.argv[2],
                  on_trial=lambda record: print(json.dumps(record), flush=True))
print(json.dumps(run.record["trials"]), flush=True)
"""


def ended(runs):
    """Return the ids of the trials that the search's saved state calls ended."""
    states = sorted((runs / "ball.search" / "1" / "trials").glob("experiment_state-*.json"))
    trials = [json.loads(state) for state, _ in json.loads(states[-1].read_text())["trial_data"]] if states else []
    return {trial["trial_id"] for trial in trials if trial["status"] == "TERMINATED"}


@pytest.mark.slow
def test_a_search_whose_driver_was_killed_goes_on(prepared, tmp_path):
    space = json.dumps({"fit": {"learning_rate": {"low": 1e-3, "high": 2e-2}}})
    command = [sys.executable, "-c", SEARCH, prepared.root.path, str(tmp_path), space]
    often = os.environ | {"TUNE_GLOBAL_CHECKPOINT_S": "1"}
    process = subprocess.Popen(
        command, env=often, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    )
    assert process.stdout is not None
    # Tune writes its state now and then, so that only what it says there is safe from a kill.
    for _ in process.stdout:
        if finished := ended(tmp_path):
            break
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "ball.search" / "1" / "run.json").exists()
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith(("{", "["))]
    again, trials = lines[:-1], lines[-1]
    assert len(trials) == 5
    assert finished
    assert again
    assert finished.isdisjoint(record["trial"] for record in again), "a finished trial isn't run again"
