"""How unsure models are of images, for one image and for a cohort on Ray."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import medray
from medray.annotation.projects import Project, Projects
from medray.annotation.queue import read_queue, write_queue
from medray.errors import ConfigError, InputError
from medray.inference.predictor import Predictor
from medray.inference.uncertainty import doubt_of, score_all
from medray.storage.location import locate
from tests.inference.test_predictor import model_folder
from tests.phantoms import grid, orientations, phantom
from tests.serving.conftest import register

JOBS = Path(__file__).parents[2] / "jobs"


@pytest.fixture(scope="module")
def models(phantom_cohort, tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    return [model_folder(place / name, phantom_cohort, seed=seed) for seed, name in enumerate(("one", "two"))]


def scan(seed):
    return phantom(np.random.default_rng(seed), grid(list(orientations())[seed], (2.0, 2.0, 2.5)))[0]


def test_scores_lie_between_0_and_1_and_models_that_agree_dont_disagree(models):
    one, two = (Predictor.load(folder) for folder in models)
    entropy = doubt_of([one], scan(3))
    assert 0 < entropy.score <= 1
    assert doubt_of([one, one], scan(3), "disagreement").score == pytest.approx(0, abs=1e-5)
    assert 0 < doubt_of([one, two], scan(3), "disagreement").score < doubt_of([one, two], scan(3)).score
    assert len(entropy.features) == 64 * (1 + len(one.plan.targets) + 1)
    assert doubt_of([one], scan(3)) == entropy
    assert doubt_of([one], scan(4)).features != entropy.features


def test_a_sure_model_has_no_doubt(models):
    sure = Predictor.load(models[0])
    network = sure._network
    sure._network = lambda images: 100 * network(images)[0]
    unsure = Predictor.load(models[0])
    unsure._network = lambda images: 0 * network(images)[0]
    assert doubt_of([sure], scan(3)).score < doubt_of([Predictor.load(models[0])], scan(3)).score
    assert doubt_of([unsure], scan(3)).score == pytest.approx(1, abs=1e-5)


@pytest.mark.ray
def test_a_cohort_is_scored_and_a_queue_written(models, phantom_cohort, tmp_path, local_ray, monkeypatch):
    monkeypatch.setenv("MEDRAY_HOME", str(tmp_path / "home"))
    store, root = medray.Registry(), phantom_cohort.root.path
    for name, folder in zip(("one", "two"), models, strict=True):
        register(store, name, folder)
    register(
        store,
        "spots",
        model_folder(tmp_path / "spots", phantom_cohort, task="detection", targets=["core"], target_weights=[1.0]),
    )
    rows = phantom_cohort.rows
    done = score_all(["one/1"], root, tmp_path / "scores", leave_out=[rows[0].series])
    assert (len(done.doubts), done.failed, done.resumed) == (len(rows) - 1, {}, 0)
    assert done.doubts[rows[1].series] == doubt_of([Predictor.load(models[0])], phantom_cohort.volume(rows[1]))
    assert score_all(["one/1"], root, tmp_path / "scores").resumed == len(rows) - 1

    Projects(phantom_cohort.root).create(Project(name="balls", names={"ball": ()}), "olga")
    Projects(phantom_cohort.root).assign("balls", ["ann"], "olga", cases=[rows[0].series])
    queue = tmp_path / "queue.json"
    made = write_queue(["one", "two"], root, queue, by="both", method="disagreement", count=4, project="balls")
    assert made == {"scored": len(rows), "failed": {}, "cases": 4}
    cases = read_queue(locate(queue))
    assert len(set(cases)) == 4
    assert rows[0].series not in cases
    assert json.loads(queue.read_text())["models"] == ["one", "two"]
    assert write_queue(["one"], root, queue)["cases"] == 0, "all images have labels"
    words = ['models=["one"]', f"source={root}", f"output={tmp_path / 'job.json'}", "project=balls", "by=uncertainty"]
    job = subprocess.run([sys.executable, JOBS / "choose.py", *words], capture_output=True, text=True, check=True)
    assert json.loads(job.stdout.splitlines()[-1])["cases"] == len(rows) - 1
    with pytest.raises(InputError, match="different things"):
        score_all(["one", "spots"], root, tmp_path / "x")
    with pytest.raises(InputError, match="no such score"):
        score_all(["spots"], root, tmp_path / "x")
    with pytest.raises(ConfigError, match="two models"):
        score_all(["one"], root, tmp_path / "x", method="disagreement")
    with pytest.raises(ConfigError, match="isn't a queue"):
        read_queue(locate(tmp_path / "home" / "medray.db"))
