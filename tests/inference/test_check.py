"""A reference beside a version, and what is seen against it."""

import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from medray.annotation.erase import erase_subject as erase_everywhere
from medray.audit import open_trail
from medray.cohort.cohort import open_cohort
from medray.errors import InputError, NotFoundError
from medray.inference import reference
from medray.inference.baseline import keep_reference, read_reference
from medray.inference.check import check
from medray.inference.recorded import nameless
from medray.inference.reference import reference_from_cohort, reference_from_records
from medray.monitoring.alarm import Watch
from medray.monitoring.features import FEATURES
from medray.monitoring.record import PredictionRecord
from medray.monitoring.records import erase_subject, purge_records, read_records, records_root, write_records
from medray.preprocessing.planning import plan
from medray.privacy.pseudonym import Pseudonyms
from medray.registry.card import ModelCard
from medray.registry.registry import Registry
from medray.storage.location import locate
from tests.inference.test_predictor import untrained
from tests.phantoms import SMALL_PLAN

NOW = datetime(2026, 11, 20, tzinfo=UTC)


@pytest.fixture
def store(tmp_path, phantom_cohort):
    recipe = plan(phantom_cohort, changes=SMALL_PLAN)
    registry = Registry(f"sqlite:///{tmp_path}/registry.db")
    folder = locate(untrained(tmp_path / "model", recipe))
    registry.register(ModelCard(name="ball", created="2026", plan=recipe, scores={}, subjects={}), folder)
    return registry


def predictions(rng, count, start=0, **moved):
    for number in range(start, start + count):
        numbers = {"noise": rng.normal() + moved.get("noise", 0), "volume ball": abs(rng.normal()), "confidence": rng.random()}
        yield PredictionRecord(
            id=f"p{number}",
            at=NOW + timedelta(hours=number),
            model="ball",
            version=1,
            task="segmentation",
            subject=f"s{number % 7}",
            numbers=numbers,
            embedding=tuple(rng.normal(size=3)),
        )


def test_a_reference_from_a_cohort_is_what_serving_would_record(store, phantom_cohort):
    found = reference_from_cohort("ball", phantom_cohort, registry=store)
    assert len(found) == len(phantom_cohort.rows)
    assert {record.series for record in found} == {row.series for row in phantom_cohort.rows}
    assert all({*FEATURES, "volume ball", "confidence", "entropy"} <= record.numbers.keys() for record in found)
    assert all(record.embedding and record.groups["modality"] == "MR" for record in found)


def test_drift_is_told_by_what_is_kept_beside_the_version(store, rng):
    root = records_root()
    with pytest.raises(NotFoundError, match="medray monitor baseline"):
        check("ball", root, Watch(), registry=store)
    good = list(predictions(rng, 120))
    write_records(root, good, name="good")
    until = NOW + timedelta(hours=120)
    keep_reference("ball", reference_from_records("ball", root, NOW, until, registry=store), why="a good week", registry=store)
    assert open_trail().verify().problems == ()
    assert check("ball", root, Watch(), registry=store).studies == 0, "what it is made of isn't news"
    write_records(root, list(predictions(rng, 60, 200)), name="more")
    calm = check("ball", root, Watch(), registry=store)
    assert (calm.outlook.alarm, calm.studies, calm.reference) == (False, 50, 120)
    write_records(root, list(predictions(rng, 50, 300, noise=3)), name="noisy")
    found = check("ball/1", root, Watch(), registry=store).plain()
    assert found["alarm"]
    assert found["whole"]["50"]["changes"][0]["name"] == "noise"
    assert found["whole"]["50"]["p"] <= found["level"]


def test_shadows_refusals_and_other_versions_tell_nothing(store, rng):
    root = records_root()
    write_records(root, list(predictions(rng, 60)), name="good")
    keep_reference("ball", reference_from_records("ball", root, NOW, NOW + timedelta(days=9), registry=store), registry=store)
    odd = list(predictions(rng, 50, 100, noise=9))
    changes: list[dict[str, Any]] = [{"role": "shadow"}, {"status": 400}, {"version": 2}]
    others = [replace(one, **changes[number % 3]) for number, one in enumerate(odd)]
    write_records(root, others, name="odd")
    assert check("ball", root, Watch(), registry=store).studies == 0


@pytest.mark.parametrize("kind", ["cohort", "records"])
def test_who_is_erased_while_a_baseline_is_made_is_not_in_it(store, rng, phantom_cohort, tmp_path, monkeypatch, kind):
    root, where = records_root(), locate(shutil.copytree(phantom_cohort.root.path, tmp_path / "cohort"))
    cohort = open_cohort(where)
    subject = cohort.rows[0].subject
    past = list(predictions(rng, 60))
    write_records(root, [replace(past[0], subject=subject), *past[1:]], name="good")
    keep = keep_reference
    done: list[bool] = []

    def late(*words, **more):
        if not done:
            done.append(True)
            erase_everywhere(subject, [where], root, registry=store)
        return keep(*words, **more)

    monkeypatch.setattr(reference, "keep_reference", late)
    if kind == "cohort":
        kept = reference.keep_baseline("ball", cohort, registry=store)
        assert kept == len(cohort.rows) - 1
    else:
        kept = reference.keep_past("ball", root, NOW, NOW + timedelta(days=9), registry=store)
        assert kept == 59
    found = read_reference(store.resolve("ball"), store) or ()
    assert len(found) == kept
    assert subject not in {record.subject for record in found}


def test_a_reference_needs_enough_studies(store, rng):
    write_records(records_root(), list(predictions(rng, 20)), name="few")
    with pytest.raises(InputError, match="made 20 predictions in that time"):
        reference_from_records("ball", records_root(), NOW, NOW + timedelta(days=9), registry=store)


def test_old_records_go_and_a_patient_s_can(rng):
    root = records_root()
    write_records(root, list(predictions(rng, 72)), name="three-days")
    assert purge_records(root, (NOW + timedelta(days=1)).date()) == 1
    assert min(record.at for record in read_records(root, "ball")) == NOW + timedelta(days=1)
    hers = sum(record.subject == "s3" for record in read_records(root, "ball"))
    assert hers > 0
    assert erase_subject(root, "s3") == hers
    left = read_records(root, "ball")
    assert "s3" not in {record.subject for record in left}
    assert len(left) == 48 - hers
    assert np.isfinite(left[0].numbers["noise"])
    assert [event.action for event in open_trail().events()] == ["records.purge"]


def test_a_site_is_called_alike_wherever_an_image_comes_from():
    names = Pseudonyms(b"k" * 32)
    found = nameless({"site": "St. Mary's", "modality": "MR"}, names)
    assert found == {"modality": "MR", "site": names.name("source", "St. Mary's")[:8]}
    assert nameless({"site": "St. Mary's"}, None) == {}, "without a key nobody can be named"
