"""The whole way on a real cluster: a generator, a synthetic cohort, its gate, and a fit that takes it in."""

import json

import numpy as np
import pytest

import medray
from medray.errors import ConfigError, InputError
from tests.phantoms import SMALL_PLAN

pytestmark = pytest.mark.ray
WIDE = medray.Gate(mean_off=50, texture_off=50, discrepancy=50, copies=1)
LENGTH = medray.FitConfig(epochs=2, steps=6, learning_rate=2e-3, mixed=False, picture=True)


@pytest.fixture(scope="module")
def made(local_ray, phantom_cohort, tmp_path_factory):
    """A generator with its registry, and what it was trained on."""
    place = tmp_path_factory.mktemp("generator")
    changes = {"patch": [16, 16, 16], "network": {"features": [4, 8]}, "val": 0.2, "test": 0.2}
    recipe = medray.plan(phantom_cohort, task="synthesis", changes=changes)
    prepared = medray.prepare(phantom_cohort, recipe, place / "prepared")
    run = medray.fit(prepared, LENGTH, name="maker", runs=place / "runs")
    registry = medray.Registry(f"sqlite:///{place}/registry.db")
    registry.register(medray.card_from_run(run, plan=recipe), run.model)
    return place, prepared, registry, run


@pytest.fixture(scope="module")
def synthetic(made, tmp_path_factory):
    place, prepared, registry, _ = made
    return medray.synthesise("maker", prepared, place / "synthetic", count=6, seed=1, gate=WIDE, registry=registry)


@pytest.mark.slow
def test_a_generator_is_scored_and_shown_each_epoch(made):
    place, _, _, run = made
    assert set(run.record["scores"]) == {"ball", "core"}
    assert all(0 < score <= 1 for score in run.record["scores"].values())
    assert (place / "runs" / "maker" / "1" / "pictures" / "epoch-0001.png").stat().st_size > 1000


def test_every_row_says_what_it_is(made, synthetic):
    place, prepared, _, _ = made
    cohort = medray.open_cohort(place / "synthetic")
    assert cohort.index.id == synthetic.cohort.index.id
    assert {row.synthetic for row in cohort.rows} == {"maker/1"}
    assert cohort.index.lineage["made_from"] == prepared.cohort
    assert cohort.index.lineage["gate"] == "passed"
    assert cohort.index.lineage["people"].split() == sorted({row.subject for row in prepared.of("train")})
    for row in cohort.rows:
        volume, mask = cohort.volume(row), cohort.mask(row)
        assert volume.meta["synthetic"] == "maker/1"
        assert volume.shape == mask.shape
        assert set(np.unique(mask)) <= {0, 1, 4}
        assert row.statistics.label_voxels["ball"] > 100
    assert json.loads((place / "synthetic" / "gate.json").read_text())["passed"]


def test_equal_seeds_make_equal_cohorts(made, synthetic, tmp_path):
    _, prepared, registry, _ = made
    again = medray.synthesise("maker", prepared, tmp_path / "again", count=6, seed=1, gate=WIDE, registry=registry)
    assert again.cohort.index.id == synthetic.cohort.index.id
    other = medray.synthesise("maker", prepared, tmp_path / "other", count=6, seed=2, gate=WIDE, registry=registry)
    assert {row.volume for row in other.cohort.rows}.isdisjoint(row.volume for row in synthetic.cohort.rows)


@pytest.mark.slow
def test_synthetic_cases_are_trained_on_and_nothing_else(made, synthetic, phantom_cohort, tmp_path):
    recipe = medray.plan(phantom_cohort, changes=SMALL_PLAN)
    without = medray.prepare(phantom_cohort, recipe, tmp_path / "without")
    beside = medray.prepare(phantom_cohort, recipe, tmp_path / "with", synthetic=synthetic.cohort)
    extra = [row for row in beside.cases if row.synthetic]
    assert len(extra) == len(synthetic.cohort.rows)
    assert {row.split for row in extra} == {"train"}
    assert {row.file for row in without.cases} == {row.file for row in beside.cases if not row.synthetic}
    assert beside.cohort == f"{phantom_cohort.index.id}+{synthetic.cohort.index.id}"
    told = []
    config = medray.FitConfig(epochs=1, steps=3, mixed=False, picture=False)
    runs, on_fit = tmp_path / "runs", lambda side, seed, scores: told.append((side, seed))
    gain = medray.measure_gain(without, beside, phantom_cohort, config, seeds=2, runs=runs, on_fit=on_fit)
    assert told == [("without", 0), ("with", 0), ("without", 1), ("with", 1)]
    for name in ("ball", "core"):
        apart = np.subtract(gain.with_synthetic[name], gain.without[name])
        assert gain.gain[name] == pytest.approx(apart.mean())
        low, high = gain.intervals[name]
        assert low <= gain.gain[name] <= high
    with pytest.raises(InputError, match="and nothing else"):
        medray.measure_gain(beside, without, phantom_cohort, seeds=2)
    with pytest.raises(ConfigError, match="two at least"):
        medray.measure_gain(without, beside, phantom_cohort, seeds=1)


def test_what_the_gate_refuses_is_not_trained_on(made, phantom_cohort, tmp_path):
    _, prepared, registry, _ = made
    strict = medray.Gate(mean_off=0)
    refused = medray.synthesise("maker", prepared, tmp_path / "refused", count=3, gate=strict, registry=registry)
    assert not refused.judgement.passed
    recipe = medray.plan(phantom_cohort, changes=SMALL_PLAN)
    with pytest.raises(InputError, match="its gate refused it: ball is"):
        medray.prepare(phantom_cohort, recipe, tmp_path / "prepared", synthetic=refused.cohort)
    with pytest.raises(InputError, match="has passed no gate"):
        medray.prepare(phantom_cohort, recipe, tmp_path / "prepared", synthetic=phantom_cohort)
    with pytest.raises(InputError, match="no labelled series"):
        medray.plan(refused.cohort)


@pytest.mark.slow
def test_synthetic_cases_show_nothing_of_held_out_people(synthetic, phantom_cohort, tmp_path):
    recipe = medray.plan(phantom_cohort, changes=SMALL_PLAN | {"val": 0.45, "test": 0.45})
    with pytest.raises(InputError, match="subjects that this plan validates or tests on"):
        medray.prepare(phantom_cohort, recipe, tmp_path / "prepared", synthetic=synthetic.cohort)


def test_a_generator_says_nothing_of_images(made, phantom_cohort, tmp_path):
    _, _, registry, _ = made
    with pytest.raises(InputError, match="use it with medray synthesise"):
        medray.evaluate("maker", phantom_cohort, registry=registry)
    with pytest.raises(InputError, match="use it with medray synthesise"):
        medray.Predictor.load(registry.fetch("maker")).predict(phantom_cohort.volume(phantom_cohort.rows[0]))


def test_other_models_and_other_data_are_refused(made, phantom_cohort, tmp_path):
    place, prepared, registry, _ = made
    recipe = medray.plan(phantom_cohort, changes=SMALL_PLAN)
    other = medray.prepare(phantom_cohort, recipe, tmp_path / "other")
    with pytest.raises(InputError, match="another plan"):
        medray.synthesise("maker", other, tmp_path / "new", count=3, registry=registry)
    with pytest.raises(ConfigError, match="count=1"):
        medray.synthesise("maker", prepared, tmp_path / "new", count=1, registry=registry)
    assert not (tmp_path / "new").exists()
    assert place.exists()
