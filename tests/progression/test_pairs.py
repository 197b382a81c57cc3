"""A cohort of pairs from follow-ups: who is in it, and a model that learns from it, is evaluated and tells what changed."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import medray
from medray.cli.main import app
from medray.errors import ConfigError, ImageError, InputError
from medray.imaging.transitions import Transitions
from medray.imaging.volume import Volume
from medray.progression.courses import Courses
from medray.progression.pair import label_map_of_pair, pair_of, pairs_in_turn
from medray.progression.pairs import pair_up
from medray.progression.visit import Visit
from tests.progression.people import NAMES, motion, person, scanned
from tests.progression.test_cohort import TABLE, put

JOBS = Path(__file__).parents[2] / "jobs"
SMALL = {"patch": [16, 16, 16], "network": {"name": "siamese", "features": [4, 8]}, "spacing_mm": [4, 4, 4]}


@pytest.fixture(scope="module")
def twice():
    """A person's scans, which lie otherwise, and their label maps."""
    first, second = person(4)
    (one, one_mask), (two, two_mask) = scanned(first, 1), scanned(second, 2, motion((8, -5, 4), (10, -6, 5)))
    return (Visit("one", 0.0, one), Visit("two", 365.25, two)), (one_mask, two_mask)


@pytest.mark.slow
def test_a_pair_is_both_scans_on_one_grid(twice):
    visits, masks = twice
    pair = pair_of(*visits)
    assert len(pair.image.voxels) == 2
    assert float(pair.image.meta["years"]) == pytest.approx(1)
    one, two = pair.image.voxels
    inside = (one > 0) & (two > 0)
    assert np.corrcoef(one[inside], two[inside])[0, 1] > 0.6
    labels = Transitions(("lesion",))
    before, after = labels.parted(label_map_of_pair(masks, NAMES, labels, pair.alignment))
    for found, mask in ((before, masks[0]), (after, masks[1])):
        true = (mask.voxels == NAMES["lesion"]).sum() * mask.voxel_ml
        assert found.sum() * pair.image.voxel_ml == pytest.approx(true, rel=0.15)
    ordered, pairs = pairs_in_turn(visits[::-1])
    assert ([visit.name for visit in ordered], len(pairs)) == (["one", "two"], 1)


def test_what_is_no_pair(twice):
    (one, two), _ = twice
    with pytest.raises(InputError, match="one and one are of one day"):
        pair_of(one, one)
    with pytest.raises(InputError, match="wrong order"):
        pair_of(two, one)
    other = Visit("two", 9.0, Volume(two.image.voxels, two.image.affine, {"modality": "CT"}))
    with pytest.raises(InputError, match="CT and MR"):
        pair_of(one, other)
    with pytest.raises(InputError, match="two time points or more; there is 1"):
        pairs_in_turn([one])
    flat = Visit("flat", 9.0, Volume(np.zeros((1, 8, 8, 8), np.float32), np.eye(4), {"modality": "MR"}))
    with pytest.raises(ImageError, match="shows nothing"):
        pair_of(one, flat)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Three people who were scanned twice, one whose scans are of two people, one scanned once."""
    folder = tmp_path_factory.mktemp("source")
    for number in range(3):
        first, second = person(number + 4)
        put(folder, f"{number}", "20200101", *scanned(first, 1))
        put(folder, f"{number}", "20210101", *scanned(second, 2, motion((10, -5, 8), (12, -8, 5))))
    noise = np.random.default_rng(0).normal(100, 20, (1, 60, 60, 40)).astype(np.float32)
    odd = Volume(noise, np.diag([2.0, 2, 3, 1])), Volume((noise > 150).astype(np.uint8), np.diag([2.0, 2, 3, 1]))
    put(folder, "b", "20200101", *odd)
    put(folder, "b", "20210101", *scanned(first, 3))
    put(folder, "d", "20200101", *odd)
    (folder / "dseg.tsv").write_text(TABLE)
    return medray.ingest(folder, tmp_path_factory.mktemp("cohort"), profile="none")


@pytest.fixture(scope="module")
def paired(source, tmp_path_factory):
    """Where the pairs are, and what was said of making them."""
    place = tmp_path_factory.mktemp("pairs")
    return place, pair_up(source.root.path, place)


@pytest.mark.ray
@pytest.mark.slow
def test_follow_ups_become_a_cohort_of_pairs(source, paired):
    place, done = paired
    assert (done.pairs, done.patients, done.once, done.resumed) == (3, 3, 1, 0)
    assert (done.failed, done.labels) == ({"not-alignable": 1}, ("lesion",))
    cohort = medray.open_cohort(place)
    assert cohort.index.id == done.cohort
    assert {row.subject for row in cohort.rows} < {row.subject for row in source.rows}, "a split holds out the same patients"
    for row in cohort.rows:
        assert row.channels == 2
        assert cohort.volume(row).meta["years"] == f"{366 / 365.25:.6f}"
        assert set(np.unique(cohort.mask(row))) == {0, 1, 2, 3}
    [refused] = cohort.quarantine
    assert refused.reason == "not-alignable"

    again = pair_up(source.root.path, place)
    assert (again.resumed, again.cohort) == (4, done.cohort)
    words = [f"source={source.root.path}", f"target={place}"]
    by_job = subprocess.run([sys.executable, JOBS / "pairs.py", *words], capture_output=True, text=True, check=True)
    assert json.loads(by_job.stdout.splitlines()[-1])["resumed"] == 4
    by_command = CliRunner().invoke(app, ["cohort", "pairs", source.root.path, str(place), "--json"])
    assert json.loads(by_command.stdout) == {**json.loads(json.dumps(asdict(again))), "root": str(place)}


@pytest.mark.ray
@pytest.mark.slow
def test_a_model_learns_from_pairs_and_tells_what_changed(source, paired, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDRAY_HOME", str(tmp_path / "home"))
    place, _ = paired
    cohort = medray.open_cohort(place)
    recipe = medray.plan(cohort, task="progression", changes={**SMALL, "val": 0.34, "test": 0.33})
    assert recipe.targets == ("lesion to background", "background to lesion", "lesion to lesion")
    prepared = medray.prepare(cohort, recipe, tmp_path / "prepared")
    run = medray.fit(prepared, medray.FitConfig(epochs=1, steps=2, picture=False), name="change")
    medray.Registry().register(medray.card_from_run(run, plan=recipe), run.model)

    found = CliRunner().invoke(app, ["evaluate", "change", str(place), "-o", str(tmp_path / "evaluated"), "--json"])
    assert found.exit_code == 0, found.output
    said = json.loads(found.stdout)["summary"]["lesion"]
    assert {"dice", "change_dice", "growth_error", "accuracy", "auc_grown", "auc_shrunk"} == set(said)
    assert "plots of the progression" in (tmp_path / "evaluated" / "report.html").read_text()

    words = ["track", "change", source.root.path, "--all", "-o", str(tmp_path / "all"), "--json"]
    every = CliRunner().invoke(app, words)
    assert (json.loads(every.stdout)["tracked"], json.loads(every.stdout)["failed"]) == (3, {"not-alignable": 1}), every.output
    records = json.loads((tmp_path / "all" / "patients.json").read_text())
    assert all(record["courses"]["lesion"] in ("shrunk", "stable", "grown") for record in records if record["outcome"] == "ok")

    rows = sorted((row for row in source.rows if row.subject == cohort.rows[0].subject), key=lambda row: row.time_point)
    files = []
    for row in rows:
        files.append(tmp_path / f"{row.time_point}.nii.gz")
        files[-1].write_bytes(medray.formats.nifti.write_nifti(source.volume(row)))
    scans = [medray.Scan(file, day=day) for file, day in zip(files, (366.0, 0.0), strict=True)]
    told = medray.track("change", scans, tmp_path / "one")
    assert isinstance(told, Courses)
    assert told.years == pytest.approx([0, 366 / 365.25])
    assert {"courses.json", "courses.csv", "report.html", "report.pdf"} == {file.name for file in (tmp_path / "one").iterdir()}
    written = json.loads((tmp_path / "one" / "courses.json").read_text())
    assert written["model"] == "change/1"
    assert written["courses"]["1-2"]["lesion"]["growth"] == pytest.approx(
        told.said[0].answer.courses["lesion"].growth, abs=1e-4
    )
    with pytest.raises(InputError, match="follows what it learned"):
        medray.track("change", scans, tmp_path / "two", warp=True)


def test_what_is_refused(phantom_cohort, tmp_path):
    for how, error, message in (
        ({"labels": ["lesion"]}, InputError, "no label 'lesion'"),
        ({"colour": 1}, ConfigError, "unknown key"),
        ({}, InputError, "scanned more than once"),
    ):
        with pytest.raises(error, match=message):
            pair_up(phantom_cohort.root.path, tmp_path, **how)
    with pytest.raises(ConfigError, match="make pairs first"):
        medray.plan(phantom_cohort, task="progression")
