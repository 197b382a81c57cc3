"""The whole loop: an occasion, new labels, a warm start, both compared, a proposal, a promotion."""

import json
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

import medray
from medray.audit import open_trail
from medray.errors import InputError
from medray.formats.nifti import read_nifti, write_nifti
from medray.inference.baseline import keep_reference, read_reference
from medray.inference.compare import MEAN, Rule
from medray.inference.quality import fresh_rows, quality
from medray.monitoring.alarm import Watch
from medray.monitoring.record import PredictionRecord
from medray.monitoring.records import records_root, write_records
from medray.renewal.occasion import RenewalRule, occasions
from medray.renewal.renew import renew
from medray.storage.location import locate
from tests.phantoms import SMALL_PLAN, write_phantoms

pytestmark = [pytest.mark.ray, pytest.mark.slow]
SHORT = medray.FitConfig(epochs=10, steps=80, learning_rate=3e-3, mixed=False, picture=False)
LENIENT = Rule(gain=-1, target_loss=1, group_loss=1, patients=1)


@pytest.fixture(scope="module")
def place(local_ray, tmp_path_factory):
    """A champion, and a cohort that has grown since: twelve people are scanned the other way round, bright for dark."""
    folder = tmp_path_factory.mktemp("renewal")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDRAY_HOME", str(folder / "home"))
        cohort = medray.ingest(write_phantoms(folder / "old", subjects=16), folder / "cohort", labels="**/*_dseg.nii.gz")
        recipe = medray.plan(cohort, changes=SMALL_PLAN | {"network": {"name": "unet", "features": [16, 32]}})
        run = medray.fit(medray.prepare(cohort, recipe, folder / "first"), SHORT, name="ball")
        card = medray.card_from_run(run, plan=recipe)
        medray.Registry().register(replace(card, population="phantoms"), run.model)
        medray.Registry().promote("ball/1")
        source = write_phantoms(folder / "new", subjects=24)
        for path in source.rglob("*_T1w.nii.gz"):
            image = read_nifti(path.read_bytes())
            path.write_bytes(write_nifti(image.with_voxels(np.clip(1100 - image.voxels, 0, None).astype(np.int16))))
        for series in source.rglob("series"):
            for file in series.iterdir():
                file.unlink()
        for number, path in enumerate(sorted(source.glob("sub-*"))):
            if any(path.glob("*_T1w.nii.gz")):
                for file in path.glob("*.nii.gz"):
                    file.rename(file.with_name(file.name.replace(path.name, f"sub-9{number:02d}")))
                path.rename(path.with_name(f"sub-9{number:02d}"))
            else:
                for file in path.rglob("*"):
                    file.unlink() if file.is_file() else None
        medray.ingest(source, folder / "cohort", labels="**/*_dseg.nii.gz")
    return folder


@pytest.fixture
def store(place, monkeypatch):
    monkeypatch.setenv("MEDRAY_HOME", str(place / "home"))
    return medray.Registry()


def renewed(place, rule, name="ball"):
    return renew(name, locate(place / "cohort"), locate(place / "prepared"), records_root(), rule, SHORT)


def test_without_an_occasion_nothing_is_done(place, store):
    assert renewed(place, RenewalRule(labels=1000)).plain()["challenger"] == ""
    assert [version.version for version in store.versions("ball")] == [1]
    job = [sys.executable, str(Path(__file__).parents[2] / "jobs" / "renew.py"), "name=ball", "rule.labels=1000"]
    words = [f"root={place / 'cohort'}", f"prepared={place / 'prepared'}"]
    done = subprocess.run([*job, *words], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1])["occasions"] == []


def test_each_occasion_says_why(place, store):
    cohort, card, version = medray.open_cohort(place / "cohort"), store.card("ball/1"), store.resolve("ball/1")
    fresh = fresh_rows(card, cohort)
    before = medray.open_cohort(place / "cohort", version=card.lineage["cohort"])
    assert {row.subject for row in fresh}.isdisjoint(before.subjects)
    assert len(fresh) == 12
    by_labels = occasions(RenewalRule(labels=5), version, card, cohort, records_root(), store)
    assert by_labels == ["12 images have new labels, and 5 are enough"]
    old = replace(card, created=(datetime.now(UTC) - timedelta(days=40)).isoformat())
    assert "is 40 days old" in occasions(RenewalRule(days=30), version, old, cohort, records_root(), store)[0]
    rng, root = np.random.default_rng(0), records_root()

    def record(number, noise):
        numbers = {"noise": rng.normal() + noise, "confidence": rng.random()}
        at = datetime.now(UTC) - timedelta(minutes=number)
        return PredictionRecord(id=f"{noise}-{number}", at=at, model="ball", version=1, task="segmentation", numbers=numbers)

    keep_reference("ball/1", [record(number, 0) for number in range(100)])
    assert occasions(RenewalRule(), version, card, cohort, root, store) == []
    write_records(root, [record(number, 5) for number in range(60)], name="noisy")
    [why] = occasions(RenewalRule(), version, card, cohort, root, store)
    assert "another kind" in why
    assert "noise" in why


def test_labels_that_arrive_tell_quality(place, store):
    cohort = medray.open_cohort(place / "cohort")
    found = quality("ball/1", cohort, rate=0.05)
    assert found.patients == (2, 12)
    assert found.alarm
    assert found.lately["ball"] < found.before["ball"]
    assert store.beside(store.resolve("ball/1")).evaluations()[-1]["split"] == "new labels"
    rule = RenewalRule(drift=False, quality=True, watch=Watch(rate=0.05))
    [why] = occasions(rule, store.resolve("ball/1"), store.card("ball/1"), cohort, records_root(), store)
    assert "12 patients with new labels" in why
    assert not quality("ball/1", cohort, rate=1e-9).alarm
    with pytest.raises(InputError, match="0 others have new labels"):
        quality("ball/1", medray.open_cohort(place / "cohort", version=store.card("ball/1").lineage["cohort"]))


@pytest.mark.timeout(400)
def test_a_successor_knows_the_new_and_the_old(place, store):
    found = renewed(place, RenewalRule(drift=False, labels=5, better=LENIENT, forgotten=1))
    assert found.challenger == "ball/2"
    card = store.card("ball/2")
    assert card.lineage["start"] == "ball/1"
    assert card.population == "phantoms"
    assert card.lineage["cohort"] == medray.open_cohort(place / "cohort").index.id
    assert found.gained is not None
    assert found.gained.overall[MEAN].value > 0.1, "of what it hadn't seen the champion knows little"
    assert found.kept is not None
    assert found.kept.cohort == store.card("ball/1").lineage["cohort"]
    assert store.rollout("ball").shadow is not None
    assert store.resolve("ball").version == 1, "a person decides"
    assert read_reference(store.resolve("ball/2"), store)
    assert store.beside(store.resolve("ball/2")).evaluations()
    assert [event.outcome for event in open_trail().events(action="model.propose")] == ["ok"]
    again = renewed(place, RenewalRule(drift=False, labels=5, better=LENIENT, forgotten=1, promote=True))
    assert again.challenger == "ball/2", "what is trained is not trained again"
    assert again.promoted
    assert store.resolve("ball").version == 2
    assert renewed(place, RenewalRule(drift=False, labels=1)).occasions == (), "it has learned them"
    assert store.rollback("ball").version == 1


def test_one_that_isn_t_better_is_refused_and_stays_a_shadow(place, store):
    found = renewed(place, RenewalRule(drift=False, labels=5, better=Rule(gain=0.99), promote=True))
    assert not found.promoted
    assert any("not all above 0.99" in why for why in found.refused)
    assert any("was champion before, and was taken back" in why for why in found.refused), "and no rule undoes that"
    compared = len(list(open_trail().events(action="model.compare")))
    again = renewed(place, RenewalRule(drift=False, labels=5, better=Rule(gain=0.99), promote=True))
    assert again.challenger == found.challenger
    assert "refused before" in again.refused[0]
    assert "not all above 0.99" in again.refused[0]
    assert len(list(open_trail().events(action="model.compare"))) == compared, "the same rule says the same"
    assert store.resolve("ball").version == 1
