"""Every patient of a cohort, with Ray Data: who changed, who failed and why, and a second run that does nothing twice."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import medray
from medray.cli.main import app
from medray.errors import ConfigError, ImageError, InputError, StorageError
from medray.formats.nifti import write_nifti
from medray.imaging.volume import Volume
from medray.inference.records import Records
from medray.progression.cohort import track_all
from medray.progression.patients import Patient
from medray.progression.when import day_of_text, series_of
from medray.storage.location import locate
from tests.progression.people import motion, person, scanned

pytestmark = [pytest.mark.ray, pytest.mark.slow]
JOBS = Path(__file__).parents[2] / "jobs"
TABLE = "index\tname\n1\ttissue\n2\tlesion\n"


def put(folder, subject, session, image, mask):
    place = folder / f"sub-{subject}" / f"ses-{session}" / "anat"
    place.mkdir(parents=True)
    stem = f"sub-{subject}_ses-{session}"
    (place / f"{stem}_T1w.nii.gz").write_bytes(write_nifti(image))
    (place / f"{stem}_dseg.nii.gz").write_bytes(write_nifti(mask))


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """One patient who changed, one whose scans are of two people, one without dates, one scanned once."""
    folder = tmp_path_factory.mktemp("source")
    first, second = person(4)
    put(folder, "a", "20200101", *scanned(first, 1))
    put(folder, "a", "20210101", *scanned(second, 2, motion((10, -5, 8), (12, -8, 5))))
    noise = np.random.default_rng(0).normal(100, 20, (1, 60, 60, 40)).astype(np.float32)
    odd = Volume(noise, np.diag([2.0, 2, 3, 1])), Volume((noise > 150).astype(np.uint8), np.diag([2.0, 2, 3, 1]))
    put(folder, "b", "20200101", *odd)
    put(folder, "b", "20210101", *scanned(first, 3))
    put(folder, "c", "month0", *scanned(first, 4))
    put(folder, "c", "month6", *scanned(second, 5))
    put(folder, "d", "20200101", *odd)
    (folder / "dseg.tsv").write_text(TABLE)
    return medray.ingest(folder, tmp_path_factory.mktemp("cohort"), profile="none")


def test_a_cohort_is_tracked_and_failures_are_records(cohort, tmp_path):
    seen = []
    done = track_all("", cohort.root.path, tmp_path, on_progress=lambda *step: seen.append(step))
    assert (done.tracked, done.once, done.resumed) == (1, 1, 0)
    assert done.failed == {"not-alignable": 1, "undated": 1}
    assert seen[-1] == ("track", 3, 3)
    records = {record["name"]: record for record in json.loads((tmp_path / "patients.json").read_text())}
    [good] = [record for record in records.values() if record["outcome"] == "ok"]
    assert good["years"] == pytest.approx(366 / 365.25)
    history = json.loads((tmp_path / "patients" / good["name"] / "history.json").read_text())
    assert len(history["lesions"]) == good["lesions"]
    assert (tmp_path / "patients" / good["name"] / "report.html").exists()

    again = track_all("", cohort.root.path, tmp_path)
    assert again.resumed == 3
    by_command = CliRunner().invoke(app, ["track", "-", cohort.root.path, "--all", "-o", str(tmp_path), "--json"])
    assert json.loads(by_command.stdout)["resumed"] == 3
    words = [f"source={cohort.root.path}", f"output={tmp_path}"]
    by_job = subprocess.run([sys.executable, JOBS / "track.py", *words], capture_output=True, text=True, check=True)
    assert json.loads(by_job.stdout.splitlines()[-1])["resumed"] == 3
    spaced = track_all("", cohort.root.path, tmp_path, apart_days=180)
    assert (spaced.tracked, spaced.failed, spaced.resumed) == (2, {"not-alignable": 1}, 0), (
        "another way of tracking starts anew"
    )


def test_an_identifier_that_leads_elsewhere_does_not(tmp_path):
    """A cohort of profile ``none`` keeps the sources' own identifiers, and a header may say anything."""
    records = Records(locate(tmp_path / "a" / "b" / "records"), "masks")
    for name in ("../../../x", "/etc/x", "..", "a/b", "plain-1"):
        records.note(name, "stamp", "ok", "")
    assert len(list((tmp_path / "a" / "b" / "records").glob("*.json"))) == 5
    assert [path.name for path in tmp_path.rglob("*") if path.is_file() and path.parent.name != "records"] == []
    with pytest.raises(StorageError, match="leads out of its folder"):
        locate(tmp_path).join("../x")


def test_what_is_refused(cohort, tmp_path):
    with pytest.raises(ConfigError, match="unknown key"):
        track_all("", cohort.root.path, tmp_path, warps=True)
    bare = medray.ingest(_unlabelled(tmp_path / "bare"), tmp_path / "cohort", profile="none")
    with pytest.raises(InputError, match="which model"):
        track_all("", bare.root.path, tmp_path)


def _unlabelled(folder):
    image, _ = scanned(person(4)[0], 1)
    folder.mkdir()
    (folder / "scan.nii.gz").write_bytes(write_nifti(image))
    return folder


def test_one_series_a_study_of_the_modality_that_most_have(cohort):
    row = cohort.rows[0]
    rows = [
        replace(row, series="small", time_point=0, modality="MR", shape=(10, 10, 10)),
        replace(row, series="large", time_point=0, modality="MR", shape=(20, 10, 10)),
        replace(row, series="later", time_point=1, modality="MR"),
        replace(row, series="other", time_point=1, modality="CT"),
    ]
    assert [one.series for one in series_of(rows)] == ["large", "later"]


def test_a_sequence_that_each_study_has_goes_before_a_larger_one(cohort):
    row = cohort.rows[0]
    fine, flat = (
        {"spacing_mm": (1.0, 1.0, 1.0), "shape": (200, 200, 180)},
        {"spacing_mm": (0.4, 0.4, 6.0), "shape": (512, 512, 30)},
    )
    turned = {"spacing_mm": (1.1, 0.95, 1.0), "shape": (180, 200, 200)}
    rows = [
        replace(row, series="fine", time_point=0, modality="MR", **fine),
        replace(row, series="flat", time_point=0, modality="MR", **flat),
        replace(row, series="turned", time_point=1, modality="MR", **turned),
        replace(row, series="later flat", time_point=1, modality="MR", **flat),
    ]
    assert [one.series for one in series_of(rows)] == ["flat", "later flat"], "the largest"
    assert [one.series for one in series_of(rows[:3])] == ["fine", "turned"], "the second study has no flat one"


def test_of_one_spacing_the_larger_series_is_taken_each_time(cohort):
    row = cohort.rows[0]
    shapes = {"liver": (512, 512, 60), "whole": (512, 512, 200)}
    rows = [
        replace(row, series=f"{at}-{name}", time_point=at, modality="CT", spacing_mm=(0.75, 0.75, 3.0), shape=shape)
        for at in range(2)
        for name, shape in shapes.items()
    ]
    assert [one.series for one in series_of(rows)] == ["0-whole", "1-whole"]


def _dated(*found, ordered=True):
    return Patient("a", (), found, ordered, "")


def test_days_are_read_from_what_orders_studies():
    assert day_of_text("20200131120000") == day_of_text("ses-20200131")
    assert day_of_text("ses-two") is None
    assert day_of_text("20209999") is None


def test_days_are_all_known_or_all_as_far_apart_as_was_said():
    assert _dated(5.0, 9.0).days(180) == [5, 9]
    assert _dated(None, None, None).days(180) == [0, 180, 360]
    for found, apart in (((5.0, None), 180), ((None, 9.0), 0), ((None, None), 0)):
        with pytest.raises(ImageError, match="undated"):
            _dated(*found).days(apart)
    with pytest.raises(ImageError, match="in which order"):
        _dated(None, None, ordered=False).days(180)
