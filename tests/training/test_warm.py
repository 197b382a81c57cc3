import threading

import psutil
import pytest

import medray
from medray.training import trainer
from tests.phantoms import SMALL_PLAN

pytestmark = pytest.mark.ray


def ray_processes(title):
    """Return ids of Ray's worker processes below this one, by what they are called now."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        try:
            if any(title in word for word in process.cmdline()):
                found.add(process.pid)
        except psutil.Error:
            continue
    return found


def test_what_was_warmed_up_is_what_ray_train_takes(local_ray, phantom_cohort, tmp_path, monkeypatch):
    prepared = medray.prepare(phantom_cohort, medray.plan(phantom_cohort, changes=SMALL_PLAN), tmp_path / "prepared")
    before, used = set(), set()
    done = threading.Event()
    train = trainer._train

    def noted(*args, **settings):
        before.update(ray_processes("ray::"))
        return train(*args, **settings)

    def watch():
        while not done.wait(0.05):
            used.update(ray_processes("ray::RayTrainWorker") | ray_processes("ray::TrainController"))

    monkeypatch.setattr(trainer, "_train", noted)
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        medray.fit(prepared, medray.FitConfig(epochs=2, steps=3), name="ball", cpus=1, runs=tmp_path / "runs")
    finally:
        done.set()
        watcher.join()
    assert len(used) == 2
    assert used <= before
