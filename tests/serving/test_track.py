"""``/v1/track``: files of a form or a cohort's images in, what changed out, as JSON, with aligned images, or as a report."""

import io
import json
import zipfile

import numpy as np
import pytest

import medray
from medray.errors import ConflictError
from medray.formats.dicom_series import SeriesIdentity, write_dicom_series
from medray.formats.nifti import write_nifti
from medray.formats.nrrd import read_nrrd
from medray.inference.replay import replay
from medray.inference.seen import input_digest
from medray.monitoring.records import read_records, records_root
from medray.progression.history import Tracking
from medray.serving.desk import Limits
from medray.serving.form import parts_of
from medray.serving.jobs import OVER
from medray.serving.patient import Patient
from medray.serving.sources import Reference
from tests.progression.people import motion, person, scanned
from tests.serving.conftest import register_change
from tests.serving.inside import endpoint
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def scans():
    """One person, twice: moved in between."""
    first, second = person(4)
    return scanned(first, 1)[0], scanned(second, 2, motion((8, -5, 4), (10, -6, 5)))[0]


@pytest.fixture
def client(home, phantom_cohort, monkeypatch):
    monkeypatch.setenv("MEDRAY_HOME", str(home))
    with endpoint(limits=Limits(cohort=phantom_cohort.root.path), work_mb=4096) as client:
        client.timeout = 240
        yield client


def form(scans):
    return [("scan", (f"{n}.nii.gz", write_nifti(scan))) for n, scan in enumerate(scans)]


@pytest.mark.slow
def test_files_of_a_form(client, scans):
    params = {"params": json.dumps({"days": [365, 0]})}
    reply = client.post("/v1/track/ball", files=form(scans), data=params)
    assert reply.status_code == 200, reply.text
    said = reply.json()
    assert said["model"] == "ball/1"
    assert [point["name"] for point in said["time_points"]] == ["scan 2", "scan 1"], "sorted by day"
    assert {one["label"] for one in said["structures"]} == {"ball", "core"}
    assert {"network", "track", "total"} <= {word.split(";")[0] for word in reply.headers["Server-Timing"].split(", ")}

    later = client.post("/v1/track/ball", files=form(scans), data=params, headers={"Prefer": "respond-async"})
    assert (later.status_code, later.json()["task"]) == (202, "tracking")
    job = later.headers["location"]
    wait_until(lambda: client.get(job).json()["state"] in OVER)
    assert client.get(job).json()["state"] == "done"
    answer = client.get(f"{job}/result").json()
    assert answer["time_points"] == said["time_points"]
    for one, other in zip(answer["structures"], said["structures"], strict=True):  # ITK's threads add up in any order
        assert one["scales"] == pytest.approx(other["scales"], abs=1e-6)
        assert one["amounts"] == other["amounts"]

    whole = client.post("/v1/track/ball", files=form(scans), data=params, headers={"Accept": "multipart/form-data"})
    parts = {part.name: part.data for part in parts_of(whole.content, whole.headers["content-type"])}
    assert set(parts) == {"result", "report", "image-1", "mask-1", "image-2", "mask-2"}
    images = [read_nrrd(parts[f"image-{n}"]) for n in (1, 2)]
    assert images[0].shape == images[1].shape
    inside = (images[0].voxels > 0) & (images[1].voxels > 0)
    assert np.corrcoef(images[0].voxels[inside], images[1].voxels[inside])[0, 1] > 0.6, "in one space"
    assert b"<h1>What changed</h1>" in parts["report"]


def recorded(model, wanted):
    """The records of a model, as soon as there are so many that are complete."""

    def found():
        return [record for record in read_records(records_root(), model) if record.output_sha256]

    wait_until(lambda: len(found()) >= wanted)
    return found()


@pytest.mark.slow
def test_each_scan_is_a_prediction_on_record(client, scans, tmp_path):
    before = {record.id for record in read_records(records_root(), "ball")}
    assert client.post("/v1/track/ball", files=form(scans), data={"params": json.dumps({"days": [365, 0]})}).status_code == 200
    first, second = (record for record in recorded("ball", len(before) + 2) if record.id not in before)
    assert {"network", "postprocess"} <= first.latencies.keys()
    digests = {input_digest([write_nifti(scan)]): scan for scan in scans}
    for record in (first, second):
        (tmp_path / "scan.nii.gz").write_bytes(write_nifti(digests.pop(record.input_sha256)))
        assert replay(record.id, records_root(), source=tmp_path / "scan.nii.gz").same


def test_a_patient_is_packed_into_one_file():
    how = Tracking(lesions=("lesion",), repeatability=0.02)
    patient = Patient((b"one", Reference(image="two"), Reference(study="1.2", series="3.4")), (0.0, None, 30.5), how)
    assert Patient.unpacked(patient.packed()) == patient


@pytest.mark.slow
def test_dicom_says_when_and_gets_a_report(client, scans):
    zips = []
    for number, scan in enumerate(scans):
        packed = io.BytesIO()
        identity = SeriesIdentity(patient="p", study=str(number), series=str(number), date=f"202{number}0101")
        with zipfile.ZipFile(packed, "w") as archive:
            for slice_number, data in enumerate(write_dicom_series(scan, identity)):
                archive.writestr(f"{slice_number}.dcm", data)
        zips.append(("scan", (f"{number}.zip", packed.getvalue())))
    reply = client.post("/v1/track/ball", files=zips, headers={"Accept": "application/dicom; report"})
    assert reply.status_code == 200, reply.text
    import pydicom

    found = pydicom.dcmread(io.BytesIO(reply.content))
    assert found.ConceptNameCodeSequence[0].CodeValue == "126000"


@pytest.mark.slow
def test_a_model_of_progression_sees_both_scans(home, client, phantom_cohort, scans):
    register_change(home, phantom_cohort)
    params = {"params": json.dumps({"days": [365.25, 0]})}
    reply = client.post("/v1/track/change", files=form(scans), data=params)
    assert reply.status_code == 200, reply.text
    said = reply.json()
    assert (said["model"], [point["years"] for point in said["time_points"]]) == ("change/1", [0, 1])
    course = said["courses"]["1-2"]["ball"]
    assert sum(course["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    record = recorded("change", 1)[0]
    assert (record.task, record.input_sha256) == ("progression", "")
    with pytest.raises(ConflictError, match="medray track makes it again"):
        replay(record.id, records_root())
    assert course["rate_per_year"] == pytest.approx(course["growth"], abs=1e-4)

    whole = client.post("/v1/track/change", files=form(scans), data=params, headers={"Accept": "multipart/form-data"})
    parts = {part.name: part.data for part in parts_of(whole.content, whole.headers["content-type"])}
    assert set(parts) == {"result", "report", "earlier-1-2", "later-1-2", "change-1-2"}
    grids = {read_nrrd(parts[name]).shape for name in ("earlier-1-2", "later-1-2", "change-1-2")}
    assert len(grids) == 1
    assert b"<h1>What changed</h1>" in parts["report"]
    nothing = client.post("/v1/track/change", files=form(scans), data=params, headers={"Accept": "application/dicom; report"})
    assert (nothing.status_code, "no DICOM series" in nothing.json()["detail"]) == (422, True)
    bent = client.post("/v1/track/change", files=form(scans), data={"params": json.dumps({"days": [0, 9], "warp": True})})
    assert (bent.status_code, "what it learned" in bent.json()["detail"]) == (422, True)
    assert client.post("/v1/segment/change", content=write_nifti(scans[0])).json()["title"] == "other-task"


def test_what_cant_be_tracked(client, phantom_cohort):
    rows = [row for row in phantom_cohort.rows if not row.plane]  # files, whose names say no date
    two = [{"image": rows[0].series}, {"image": rows[1].series}]
    same = client.post("/v1/track/ball", json={"scans": two, "days": [0, 0], "one_patient": True})
    assert (same.status_code, "one day" in same.json()["detail"]) == (422, True)
    for body, status, why in (
        ({"scans": two[:1]}, 422, "two scans or more"),
        ({"scans": two, "days": [0, 1], "one_patient": False}, 422, "several patients"),
        ({"scans": two, "days": [1]}, 422, "one by one"),
        ({"scans": two, "days": ["x", 2]}, 422, "list of numbers"),
        ({"scans": two, "colour": 1}, 422, "unknown key"),
        ({"scans": two}, 422, "when it was made"),
        ({"scans": [{"image": "nobody"}, two[0]], "days": [0, 1]}, 404, "no such image"),
        ({"scans": [{"uri": "s3://secret/x"}, two[0]], "days": [0, 1]}, 403, "sources"),
        ({"scans": two, "days": [0, 1], "lesions": ["vessel"]}, 422, "no label"),
    ):
        reply = client.post("/v1/track/ball", json={"one_patient": True, **body})
        assert (reply.status_code, why in reply.text) == (status, True), reply.text
    unread = client.post(
        "/v1/track/ball", json={"scans": two, "days": [1], "one_patient": True}, headers={"Prefer": "respond-async"}
    )
    assert unread.status_code == 422, "refused now, not later"
    assert (
        client.post("/v1/track/spots", json={"scans": two, "days": [0, 1], "one_patient": True}).json()["title"] == "other-task"
    )
    assert client.post("/v1/track/ball", content=b"no json").status_code == 422
    assert client.post("/v1/track/nobody", json={"scans": two, "days": [0, 1]}).status_code == 404
    assert client.post("/v1/track/ball", json={"scans": two}, headers={"Accept": "image/png"}).status_code == 406
    assert medray.__version__ in client.get("/monailabel/").text
