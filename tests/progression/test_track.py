"""From files to what changed, with the truth known."""

import csv
import io
import json

import numpy as np
import pytest
from highdicom.sr import Comprehensive3DSR
from pydicom import dcmread

import medray
from medray.errors import InputError
from medray.formats.dicom_series import SeriesIdentity, write_dicom_series
from medray.formats.nifti import write_nifti
from medray.imaging.volume import Volume
from medray.progression.history import History, Tracking, history_of
from medray.progression.visit import TimePoint, Visit, require_one_patient
from tests.progression.people import NAMES, motion, person, scanned

MOVED = motion((10, -5, 8), (12, -8, 5))


@pytest.fixture(scope="module")
def people():
    return person(4)


@pytest.fixture(scope="module")
def files(people, tmp_path_factory):
    """A baseline as NIfTI and a follow-up as DICOM, each with its mask."""
    folder = tmp_path_factory.mktemp("scans")
    for name, subject, seed, moved in (("first", people[0], 1, None), ("second", people[1], 2, MOVED)):
        image, mask = scanned(subject, seed, moved)
        (folder / f"{name}.nii.gz").write_bytes(write_nifti(image))
        (folder / f"{name}-mask.nii.gz").write_bytes(write_nifti(mask))
    return folder


@pytest.fixture(scope="module")
def history(files, tmp_path_factory):
    output = tmp_path_factory.mktemp("out")
    scans = [
        medray.Scan(files / f"{name}.nii.gz", day, files / f"{name}-mask.nii.gz")
        for name, day in (("second", 365.25), ("first", 0))
    ]
    return medray.track("", scans, output, labels=NAMES), output


def test_lesions_are_followed(history, people):
    found, _ = history
    fates = [lesion.fates[0] for lesion in found.lesions]
    assert fates.count("new") == 1
    assert "vanished" not in fates
    truth = sorted(
        1000 * later.volume_ml / (1000 * old.volume_ml)
        for old, later in zip(people[0].lesions, people[1].lesions, strict=False)
    )
    said = sorted(1 + lesion.changes[0].percent / 100 for lesion in found.lesions if lesion.changes[0].percent is not None)
    assert said == pytest.approx(truth, rel=0.08)


def test_structures_stay_and_dates_order(history):
    found, _ = history
    assert found.years == (0.0, 1.0)
    assert found.names == ("scan 2", "scan 1")
    [tissue] = found.structures
    assert abs(tissue.changes[0].percent) < 0.8


@pytest.mark.slow
def test_a_scan_that_cuts_a_structure_off_tells_no_atrophy(people):
    (one, one_mask), (two, two_mask) = scanned(people[0], 1), scanned(people[1], 2, MOVED)
    kept = slice(0, int(0.75 * two.shape[2]))
    cut, cut_mask = (Volume(volume.voxels[..., kept].copy(), two.affine, two.meta) for volume in (two, two_mask))
    points = [TimePoint("one", 0.0, one, mask=one_mask), TimePoint("two", 365.0, cut, mask=cut_mask)]
    [tissue] = history_of(points, NAMES).structures
    assert (tissue.cut_off, tissue.changes, tissue.trend) == ((1,), (None,), None)


@pytest.mark.slow
def test_the_scale_may_be_left_in(people):
    (one, one_mask), (two, two_mask) = scanned(people[0], 1), scanned(people[1], 2)
    points = [TimePoint("one", 0.0, one, mask=one_mask), TimePoint("two", 365.0, two, mask=two_mask)]
    [taken], [left] = (history_of(points, NAMES, Tracking(scale=scale)).structures for scale in (True, False))
    assert left.scales == (1.0,)
    assert taken.changes[0]
    assert left.changes[0]
    assert taken.changes[0].percent is not None
    assert left.changes[0].percent is not None
    assert (1 + taken.changes[0].percent / 100) * taken.scales[0] == pytest.approx(1 + left.changes[0].percent / 100, rel=1e-6)


@pytest.mark.slow
def test_scans_of_two_patients_are_refused(files, tmp_path):
    from medray.formats.nifti import read_nifti

    image = read_nifti((files / "first.nii.gz").read_bytes())
    scans = []
    for name, date in (("ALICE", "20200101"), ("BOB", "20210101")):
        folder = tmp_path / name
        folder.mkdir()
        for at, data in enumerate(write_dicom_series(image, SeriesIdentity(patient=name, study=date, series=date, date=date))):
            (folder / f"{at}.dcm").write_bytes(data)
        scans.append(medray.Scan(folder, mask=files / "first-mask.nii.gz"))
    with pytest.raises(InputError, match="several patients") as refused:
        medray.track("", scans, tmp_path / "out", labels=NAMES)
    assert "ALICE" not in str(refused.value)
    found = medray.track("", scans, tmp_path / "out", labels=NAMES, one_patient=True)
    assert found.years[-1] == pytest.approx(366 / 365.25)
    image = read_nifti((files / "first.nii.gz").read_bytes())
    numbered = [Visit("a", 0.0, image, patient=name) for name in ("HOSP\x0042", "42", "", "HOSP\x0042")]
    require_one_patient(numbered)  # archives strip issuers
    with pytest.raises(InputError, match="several patients"):
        require_one_patient([*numbered[:1], Visit("b", 1.0, image, patient="OTHER\x0042")])


def test_what_is_written(history):
    found, output = history
    said = json.loads((output / "history.json").read_text())
    assert len(said["lesions"]) == len(found.lesions)
    rows = list(csv.DictReader(io.StringIO((output / "lesions.csv").read_text())))
    assert len(rows) == 2 * len(found.lesions)
    assert float(rows[0]["volume_mm3"]) == pytest.approx(found.lesions[0].amounts[0].mm3, abs=0.01)
    structures = list(csv.DictReader(io.StringIO((output / "structures.csv").read_text())))
    assert [row["label"] for row in structures] == ["tissue", "tissue"]
    assert float(structures[1]["change_percent"]) == pytest.approx(found.structures[0].changes[0].percent, abs=1e-3)
    page = (output / "report.html").read_text()
    assert page.count("data:image/png") == 2
    assert "http" not in page.replace("http-equiv", "")
    assert (output / "report.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.slow
def test_structured_reports_call_a_lesion_the_same(files, people, tmp_path):
    """As DICOM: each study has its report, and the tracking UIDs are one for a lesion over all of them."""
    from medray.formats.nifti import read_nifti

    scans = []
    for name, date in (("first", "20200101"), ("second", "20210101")):
        image = read_nifti((files / f"{name}.nii.gz").read_bytes())
        image = image.with_voxels(np.clip(image.voxels, 0, 4095).astype(np.uint16))
        identity = SeriesIdentity(patient="p", study=date, series=date, date=date)
        (tmp_path / name).mkdir()
        for at, data in enumerate(write_dicom_series(image, identity)):
            (tmp_path / name / f"{at}.dcm").write_bytes(data)
        scans.append(medray.Scan(tmp_path / name, mask=files / f"{name}-mask.nii.gz"))
    found = medray.track("", scans, tmp_path / "out", labels=NAMES)
    uids = {row["lesion"]: row["uid"] for row in csv.DictReader((tmp_path / "out" / "lesions.csv").open())}
    assert isinstance(found, History)
    assert len(set(uids.values())) == len(found.lesions)
    for at in (0, 1):
        report = dcmread(tmp_path / "out" / f"report-{at + 1}.dcm")
        assert report.StudyDate == ("20200101", "20210101")[at]
        groups = Comprehensive3DSR.from_dataset(report).content.get_image_measurement_groups()
        told = {group.tracking_identifier: group for group in groups}
        for lesion in found.lesions:
            name = f"lesion {lesion.number}"
            amount, diameters = lesion.amounts[at], lesion.diameters[at]
            if amount is None or diameters is None:
                assert name not in told
                continue
            assert told[name].tracking_uid == uids[str(lesion.number)]
            values = {item.name.meaning.lower(): item.value for item in told[name].get_measurements()}
            assert values["volume"] == pytest.approx(amount.mm3 / 1000, abs=1e-4)
            assert values["long axis"] == pytest.approx(diameters.longest_mm, abs=1e-3)
    assert found.responses[1].category == "PD"
    [said] = told["Target lesions"].get_qualitative_evaluations()
    assert said.value.meaning == "Target Lesion Progressive Disease"


def test_the_command(files, tmp_path, capsys):
    from medray.cli.main import app

    words = ["track", "-", str(files / "first.nii.gz"), str(files / "second.nii.gz"), "-o", str(tmp_path), "--days", "0,100"]
    masks = ["--mask", str(files / "first-mask.nii.gz"), "--mask", str(files / "second-mask.nii.gz")]
    app([*words, *masks, "--labels", "tissue=1,lesion=2", "--json"], standalone_mode=False)
    said = json.loads(capsys.readouterr().out)
    assert [point["years"] for point in said["time_points"]] == pytest.approx([0, 100 / 365.25])


def test_dicom_says_when_it_was_made(files, tmp_path):
    from medray.formats.image import files_at
    from medray.formats.nifti import read_nifti
    from medray.progression.track import day_of

    image = read_nifti((files / "first.nii.gz").read_bytes())
    days = []
    for number, date in enumerate(("20200131", "20210131")):
        folder = tmp_path / str(number)
        folder.mkdir()
        identity = SeriesIdentity(patient="p", study="s", series="x", date=date)
        for at, data in enumerate(write_dicom_series(image, identity)[:2]):
            (folder / f"{at}.dcm").write_bytes(data)
        days.append(day_of(files_at(folder)))
    assert days[1] - days[0] == 366


def test_what_is_refused(files, tmp_path):
    scan, mask = files / "first.nii.gz", files / "first-mask.nii.gz"
    with pytest.raises(InputError, match="say when it was made"):
        medray.track("", [medray.Scan(scan, None, mask)] * 2, tmp_path)
    with pytest.raises(InputError, match="a model, or else a mask"):
        medray.track("", [medray.Scan(scan, 0.0), medray.Scan(scan, 1.0, mask)], tmp_path)
    with pytest.raises(InputError, match="another grid"):
        medray.track("", [medray.Scan(scan, 0.0, files / "second-mask.nii.gz")] * 2, tmp_path)
    image, label = scanned(person(4)[0], 1)
    point = TimePoint("a", 0.0, image, mask=label)
    with pytest.raises(InputError, match="two time points or more"):
        history_of([point], NAMES)
    with pytest.raises(InputError, match="of one day"):
        history_of([point, point], NAMES)
    with pytest.raises(InputError, match="no label 'nodule'"):
        history_of([point, point], NAMES, Tracking(lesions=("nodule",)))
    assert np.isfinite(point.day)
