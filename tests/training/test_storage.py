"""Runs and searches live in a bucket: checkpoints, histories, models."""

import json
from typing import Any

import pytest

import medray
from medray.storage.location import locate
from medray.training.run import fetched
from medray.training.space import read_space
from tests.phantoms import SMALL_PLAN
from tests.services import ray_with, s3_server

pytestmark = [pytest.mark.services, pytest.mark.ray]
CONFIG = medray.FitConfig(epochs=2, steps=2, mixed=False)


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    with s3_server(tmp_path_factory.mktemp("s3")) as server, ray_with(server.environment):
        yield server.make_bucket("models")


@pytest.fixture(scope="module")
def prepared(bucket, phantom_cohort):
    return medray.prepare(phantom_cohort, medray.plan(phantom_cohort, changes=SMALL_PLAN), f"{bucket}/prepared")


def test_a_fit_leaves_everything_in_the_bucket(bucket, prepared, tmp_path):
    told: list[Any] = []
    run = medray.fit(prepared, CONFIG, name="ball", runs=f"{bucket}/runs", on_epoch=told.append)
    assert [record["epoch"] for record in told] == [0, 1]
    place = locate(f"{bucket}/runs/ball/1")
    assert json.loads(place.join("run.json").read())["best_epoch"] in (0, 1)
    with fetched(run.model) as folder:
        assert medray.Predictor.load(folder).plan == prepared.plan
    registry = medray.Registry(f"sqlite:///{tmp_path}/registry.db")
    version = registry.register(medray.card_from_run(run, plan=run.plan), run.model)
    assert medray.Predictor.load(registry.fetch(version)).plan == prepared.plan
    again = medray.fit(prepared, CONFIG, name="ball", runs=f"{bucket}/runs")
    assert again.record == run.record


def test_a_search_does_too(bucket, prepared):
    space = read_space({"fit": {"learning_rate": {"low": 1e-3, "high": 1e-2}}})
    run = medray.tune(prepared, space, CONFIG, name="ball", trials=2, runs=f"{bucket}/runs")
    assert len(run.record["trials"]) == 2
    with fetched(run.model) as folder:
        assert medray.Predictor.load(folder).plan == prepared.plan
