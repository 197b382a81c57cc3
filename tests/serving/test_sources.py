"""References instead of bytes: an object of a real S3 server, a series of a real Orthanc; and what may not be referred to."""

from functools import partial
from io import BytesIO
from shutil import which

import numpy as np
import pytest
from pydicom import dcmread

from medray.formats.dicom import read_dicom_series
from medray.formats.dicom_labels import read_dicom_labels
from medray.formats.dicom_series import write_dicom_series
from medray.formats.nifti import write_nifti
from medray.serving.desk import Limits
from medray.storage.location import locate
from tests.formats.test_dicom import WHO
from tests.phantoms import LABELS
from tests.services import orthanc_server, s3_server
from tests.serving.inside import endpoint


@pytest.fixture(autouse=True)
def _models(home, monkeypatch):
    monkeypatch.setenv("MEDRAY_HOME", str(home))


def ask(client, accept="application/json", **reference):
    return client.post("/v1/segment/ball", json=reference, headers={"accept": accept})


@pytest.mark.services
def test_an_object_and_a_folder_in_a_bucket(scan, tmp_path, monkeypatch):
    (tmp_path / "s3").mkdir()
    with s3_server(tmp_path / "s3") as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        bucket = server.make_bucket("scans")
        locate(f"{bucket}/open/scan.nii.gz").write(write_nifti(scan))
        for number, data in enumerate(write_dicom_series(scan, WHO)):
            locate(f"{bucket}/open/series/{number}.dcm").write(data)
        with endpoint(limits=Limits(sources=(f"{bucket}/open",))) as client:
            direct = client.post("/v1/segment/ball", content=write_nifti(scan)).json()["volumes_ml"]
            for uri in (f"{bucket}/open/scan.nii.gz", f"{bucket}/open/series"):
                said = ask(client, uri=uri).json()
                assert said["volumes_ml"] == direct
                assert "fetch" in said["latencies"]
            segmentation = ask(client, "application/dicom", uri=f"{bucket}/open/series")
            assert dcmread(BytesIO(segmentation.content)).Modality == "SEG"
            assert ask(client, uri=f"{bucket}/open/none.nii.gz").status_code == 404
            for uri in (f"{bucket}/closed/scan.nii.gz", f"{bucket}/open", f"{bucket}/open/../closed/x", f"{bucket}/opening/x"):
                assert ask(client, uri=uri).status_code == 403
        locate(f"{bucket}/open/large").write(bytes(1 << 20))
        with endpoint(limits=Limits(sources=(f"{bucket}/open",)), work_mb=1) as client:
            for uri in (f"{bucket}/open/large", f"{bucket}/open/"):
                reply = ask(client, uri=uri)
                assert (reply.status_code, reply.json()["title"]) == (413, "too-large")


def test_nothing_may_be_referred_to_unless_somebody_says_so(scan, tmp_path):
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "scan.nii.gz").write_bytes(write_nifti(scan))
    (tmp_path / "secret.nii.gz").write_bytes(write_nifti(scan))
    (tmp_path / "scans" / "link.nii.gz").symlink_to(tmp_path / "secret.nii.gz")
    with endpoint() as client:
        there = str(tmp_path / "scans" / "scan.nii.gz")
        for reference in ({"uri": there}, {"uri": "/etc/passwd"}, {"study": "1.2", "series": "1.3"}):
            assert ask(client, **reference).status_code == 403
    with endpoint(limits=Limits(sources=(str(tmp_path / "scans"),))) as client:
        assert ask(client, uri=str(tmp_path / "scans" / "scan.nii.gz")).status_code == 200
        assert ask(client, uri=str(tmp_path / "scans" / "link.nii.gz")).status_code == 404, "a link that leads out"
        for path in ("secret.nii.gz", "scans/../secret.nii.gz", "scans/%2e%2e/secret.nii.gz"):
            assert ask(client, uri=f"{tmp_path}/{path}").status_code == 403


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b"{}", b'{"uri": 3}', b'{"uri": ""}', b'{"uri": "a", "study": "1"}', b'{"study": "1"}', b"\xff"]
)
def test_what_is_no_reference(body):
    with endpoint() as client:
        reply = client.post("/v1/segment/ball", content=body, headers={"content-type": "application/json"})
        assert reply.status_code == 422
        assert reply.json()["detail"].startswith("a reference is")


@pytest.mark.services
@pytest.mark.skipif(which("Orthanc") is None, reason="needs Orthanc")
def test_a_series_of_a_pacs(scan, tmp_path):
    files = write_dicom_series(scan, WHO)
    first = dcmread(BytesIO(files[0]))
    with orthanc_server(tmp_path) as pacs:
        for number, data in enumerate(files):
            (tmp_path / f"{number}.dcm").write_bytes(data)
        pacs.store(sorted(tmp_path.glob("*.dcm")))
        with endpoint(limits=Limits(pacs=f"dicomweb+http://{pacs.web}")) as client:
            uids = {"study": first.StudyInstanceUID, "series": first.SeriesInstanceUID}
            reply = ask(client, "application/dicom", **uids)
            assert reply.status_code == 200
            series = read_dicom_series([partial(bytes, data) for data in files]).volume
            mask = read_dicom_labels(reply.content, series, LABELS.names)
            direct = client.post("/v1/segment/ball", content=write_nifti(scan)).json()["volumes_ml"]
            voxel_ml = float(np.prod(series.spacing_mm)) / 1000
            assert direct["ball"] == pytest.approx((mask == LABELS.names["ball"]).sum() * voxel_ml, rel=1e-3)
            assert ask(client, study="1.2.3", series="1.2.4").status_code in (404, 503)
            assert ask(client, study="1.2/../x", series="1").status_code == 422
