"""What goes in and what comes out over HTTP, each kind with each thing that can be wrong with it."""

import gzip
import io
import zipfile
from functools import partial
from io import BytesIO
from pathlib import Path

import highdicom
import numpy as np
import pytest
from pydicom import dcmread

import medray
from medray.formats.dicom import read_dicom_series
from medray.formats.dicom_labels import read_dicom_labels
from medray.formats.dicom_series import write_dicom_series
from medray.formats.nifti import read_nifti, write_nifti
from medray.formats.nrrd import read_nrrd, write_nrrd
from medray.imaging.volume import Volume
from tests.formats.test_dicom import WHO
from tests.phantoms import LABELS
from tests.serving.inside import endpoint


@pytest.fixture(scope="module")
def client(home):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDRAY_HOME", str(home))
        with endpoint() as inside:
            yield inside


def zipped(files, name="{}.dcm"):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number, data in enumerate(files):
            archive.writestr(name.format(number), data)
    return buffer.getvalue()


def ask(client, body, accept="application/json", path="/v1/segment/ball"):
    return client.post(path, content=body, headers={"accept": accept})


def test_a_segmentation_goes_back_to_its_series(client, scan):
    files = write_dicom_series(scan, WHO)
    series = read_dicom_series([partial(bytes, data) for data in files]).volume
    reply = ask(client, zipped(files), "application/dicom")
    assert (reply.status_code, reply.headers["content-type"]) == (200, "application/dicom")
    mask = read_nifti(ask(client, zipped(files), "application/x-nifti").content)
    assert np.array_equal(read_dicom_labels(reply.content, series, LABELS.names), mask.voxels[0])
    assert dcmread(BytesIO(reply.content)).SegmentSequence[0].SegmentAlgorithmName == "ball"


def test_a_report_has_what_json_says(client, scan):
    body = zipped(write_dicom_series(scan, WHO))
    report = highdicom.sr.srread(BytesIO(ask(client, body, "application/dicom; report").content))
    said = ask(client, body).json()["volumes_ml"]
    groups = report.content.get_image_measurement_groups()
    found = {group.tracking_identifier: group.get_measurements()[0].value for group in groups}
    assert found == pytest.approx(said, abs=1e-4)


def test_boxes_become_a_report_and_no_segmentation(client, scan):
    body = zipped(write_dicom_series(scan, WHO))
    assert ask(client, body, "application/dicom; report", "/v1/detect/spots").status_code == 200
    reply = ask(client, body, "application/dicom", "/v1/detect/spots")
    assert (reply.status_code, reply.json()["detail"]) == (422, "this model gives no mask: ask for json")


def test_what_is_no_dicom_has_no_dicom_result(client, scan):
    reply = ask(client, write_nifti(scan), "application/dicom")
    assert reply.status_code == 422
    assert "refers to a DICOM series" in reply.json()["detail"]


def test_nrrd_and_one_kind_of_body_for_all(client, scan):
    masks = [
        read_nrrd(ask(client, body, "application/x-nrrd").content)
        for body in (write_nifti(scan), gzip.decompress(write_nifti(scan)), write_nrrd(scan))
    ]
    assert all(np.array_equal(mask.voxels, masks[0].voxels) for mask in masks)


def test_the_command_line_s_function_writes_the_same_objects(client, scan, home, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDRAY_HOME", str(home))
    files = write_dicom_series(scan, WHO)
    (tmp_path / "series").mkdir()
    for number, data in enumerate(files):
        (tmp_path / "series" / str(number)).write_bytes(data)
    medray.predict("ball", tmp_path / "series", tmp_path / "seg.dcm", form="dicom-seg")
    medray.predict("ball", tmp_path / "series", tmp_path / "sr.dcm", form="dicom-sr")
    over_http = dcmread(BytesIO(ask(client, zipped(files), "application/dicom").content))
    written = dcmread(tmp_path / "seg.dcm")
    assert written.SOPInstanceUID == over_http.SOPInstanceUID
    assert written.PixelData == over_http.PixelData
    assert dcmread(tmp_path / "sr.dcm").Modality == "SR"


def plain(voxels, affine=None):
    return Volume(voxels[np.newaxis], np.eye(4) if affine is None else affine)


NOISE = np.random.default_rng(0).integers(0, 999, (12, 12, 12)).astype(np.int16)
NAN = np.full((4, 4, 4), np.nan, np.float32)


def patched(data, **bytes_at):
    changed = bytearray(gzip.decompress(data))
    for place, value in bytes_at.items():
        start = int(place.removeprefix("at"))
        changed[start : start + len(value)] = value
    return bytes(changed)


def slices():
    return write_dicom_series(plain(NOISE), WHO)


def without(files, keyword):
    changed = []
    for data in files:
        dataset = dcmread(BytesIO(data))
        delattr(dataset, keyword)
        buffer = BytesIO()
        dataset.save_as(buffer)
        changed.append(buffer.getvalue())
    return changed


def two_series():
    return slices() + write_dicom_series(plain(NOISE), type(WHO)(patient="P2", study="x", series="y"))


NIFTI = write_nifti(plain(NOISE))
BAD = {
    "nothing": (b"", 400, "empty-body"),
    "text": (b"hello", 415, "unknown-format"),
    "an executable": (b"MZ" + bytes(500), 415, "unknown-format"),
    "json that names nothing": (b'{"a": 1}', 415, "unknown-format"),
    "nifti, cut off": (NIFTI[:1500], 400, "truncated"),
    "nifti, plain, cut off": (gzip.decompress(NIFTI)[:900], 400, "truncated"),
    "nifti of nan": (write_nifti(plain(NAN)), 400, "non-finite-voxels"),
    "nifti, zero affine": (patched(NIFTI, at252=bytes(2), at280=bytes(48)), 400, "bad-affine"),
    "nifti, 5-D": (patched(NIFTI, at40=np.array([5, 3, 3, 3, 4, 4], "<i2").tobytes()), 400, "not-3d"),
    "nifti, channels": (patched(NIFTI, at40=np.array([4, 12, 12, 6, 2], "<i2").tobytes()), 400, "wrong-channels"),
    "nifti, huge header": (patched(NIFTI, at42=np.array([32767] * 3, "<i2").tobytes()), 413, "too-large"),
    "nrrd, cut off": (write_nrrd(plain(NOISE))[:700], 400, "truncated"),
    "nrrd of nan": (write_nrrd(plain(NAN)), 400, "non-finite-voxels"),
    "nrrd without sizes": (b"NRRD0004\ntype: short\n\n", 400, "bad-header"),
    "nrrd, huge": (b"NRRD0004\ntype: short\nsizes: 60000 60000 60000\nendian: little\nencoding: raw\n\n", 413, "too-large"),
    "zip, damaged": (zipped(slices())[:-400], 400, "truncated"),
    "zip of nothing": (zipped([]), 415, "unknown-format"),
    "zip of text": (zipped([b"hello"]), 400, "not-dicom"),
    "zip of two series": (zipped(two_series()), 400, "several-series"),
    "dicom, cut off": (slices()[0][:400], 400, None),
    "dicom without geometry": (zipped(without(slices(), "ImagePositionPatient")), 400, None),
}


@pytest.mark.parametrize(("body", "status", "title"), BAD.values(), ids=BAD.keys())
def test_a_bad_image_is_a_problem_of_one_line(client, body, status, title):
    reply = ask(client, body)
    problem = reply.json()
    assert (reply.status_code, title or problem["title"]) == (status, problem["title"])
    assert reply.headers["content-type"] == "application/problem+json"
    assert set(problem) == {"type", "title", "status", "detail"}
    assert problem["status"] == status
    assert "\n" not in problem["detail"]
    assert "P1" not in problem["detail"]


def test_names_in_a_zip_are_no_paths(client, scan, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    body = zipped(write_dicom_series(scan, WHO), "../../../tmp/escaped-{}.dcm")
    assert ask(client, body).status_code == 200
    assert not list(tmp_path.rglob("escaped-*"))
    assert not list(Path("/tmp").glob("escaped-*"))


@pytest.mark.parametrize(
    ("path", "status"),
    [("/v1/segment/none", 404), ("/v1/segment/ball/99", 404), ("/v1/segment/ball@none", 404), ("/v1/segment/..%2Fetc", 404)],
)
def test_models_that_aren_t_there(client, scan, path, status):
    reply = ask(client, write_nifti(scan), path=path)
    assert (reply.status_code, reply.json()["status"]) == (status, status)


def test_media_types_and_methods_that_aren_t_there(client, scan):
    assert ask(client, write_nifti(scan), "text/html").status_code == 406
    assert client.get("/v1/segment/ball").status_code == 405
    assert client.get("/nowhere").headers["content-type"] == "application/problem+json"
