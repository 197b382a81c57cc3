"""MONAI Label's protocol, asked as 3D Slicer's plug-in and OHIF's do."""

import io
import json
import shutil
import time
import zipfile
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest
import SimpleITK

import medray
from medray.cohort.cohort import open_cohort
from medray.formats.nifti import write_nifti
from medray.formats.nrrd import read_nrrd, write_nrrd
from medray.imaging.volume import Volume
from medray.serving.auth import make_token
from medray.serving.desk import Limits
from medray.serving.gateway import Doors
from tests.phantoms import LABELS
from tests.serving.inside import endpoint
from tests.serving.viewer import Viewer
from tests.waiting import wait_until

INFO = {"name", "description", "version", "labels", "models", "trainers", "strategies", "scoring", "train_stats", "datastore"}
CLAIMED = {"label_info": [{"name": "ball", "idx": 1}, {"name": "core", "idx": 2}], "client_id": "kim"}


@pytest.fixture
def root(phantom_cohort, tmp_path):
    """A cohort of its own: labels and images are added."""
    return Path(shutil.copytree(phantom_cohort.root.path, tmp_path / "cohort"))


@pytest.fixture
def viewer(home, root, monkeypatch):
    monkeypatch.setenv("MEDRAY_HOME", str(home))
    monkeypatch.setenv("MEDRAY_DATABASE_URL", f"sqlite:///{root.parent / 'labels.db'}")
    with endpoint(limits=Limits(cohort=str(root))) as client:
        yield Viewer(f"{client.base_url}/monailabel".replace("//monai", "/monai"))


def unlabelled(root):
    """Make the images have no labels, as they are before anybody annotates."""
    from dataclasses import replace

    from medray.cohort.commit import Contents, base_of, commit_cohort
    from medray.storage.location import locate

    base = base_of(locate(root))
    assert base.cohort is not None
    rows = tuple(replace(row, label="", label_checksum="") for row in base.cohort.rows)
    commit_cohort(locate(root), Contents(rows, (), base.cohort.index.labels), base.cohort.index.lineage, base=base)


def itk(data, tmp_path, name="result.nrrd"):
    """Read as Slicer does."""
    (tmp_path / name).write_bytes(data)
    return SimpleITK.ReadImage(str(tmp_path / name))


def test_info_has_what_the_plug_ins_read(viewer, root):
    said = viewer.info()
    assert set(said) == INFO  # a truthy "config" would make Slicer stop
    assert said["models"]["ball"]["type"] == "segmentation"
    assert said["models"]["ball"]["labels"] == {"ball": 1, "core": 4}
    assert said["models"]["spots"]["type"] == "detection"
    assert said["models"]["ball"]["dimension"] == 3
    rows = open_cohort(root).rows
    assert said["datastore"]["total"] == len(rows)
    assert said["datastore"]["completed"] == sum(bool(row.label) for row in rows)
    assert said["models"]["finds"]["type"] == "classification"
    assert set(said["trainers"]) == {"ball", "finds", "spots"}


def test_a_mask_lies_on_the_image_as_slicer_reads_both(viewer, tmp_path):
    [first, *_] = json.loads(viewer.ask("GET", "/datastore/?output=all")[2])["objects"]
    status, headers, data = viewer.ask("GET", f"/datastore/image?image={first}")
    assert (status, headers["content-disposition"].split(";")[1].strip()) == (200, f'filename="{first}.nrrd"')
    image = itk(data, tmp_path, "image.nrrd")
    name, mask, params = viewer.infer("ball", first)
    assert name == "result.nrrd"
    drawn = itk(mask, tmp_path)
    assert drawn.GetPixelIDTypeAsString() == "8-bit unsigned integer"
    assert b"encoding: raw" in mask[:1000]  # OHIF's gzip branch is broken for odd lengths
    for fact in ("GetSize", "GetOrigin", "GetSpacing", "GetDirection"):
        assert getattr(drawn, fact)() == pytest.approx(getattr(image, fact)(), abs=1e-6)
    assert params["label_names"] == {"ball": 1, "core": 4}
    assert set(params["latencies"]) == {"pre", "infer", "invert", "post", "write", "total", "transform"}
    parts = sum(value for stage, value in params["latencies"].items() if stage not in {"total", "transform"})
    assert 0 < parts <= params["latencies"]["total"] + 0.01
    predicted = medray.Predictor.load(medray.Registry().fetch("ball")).predict(read_nrrd(data))
    assert np.array_equal(read_nrrd(mask).voxels, predicted.mask.voxels)


def test_a_segmentation_file_names_its_segments(viewer):
    [first, *_] = json.loads(viewer.ask("GET", "/datastore/?output=all")[2])["objects"]
    name, data, _ = viewer.infer("ball", first, {"result_extension": ".seg.nrrd"})
    assert name == "result.seg.nrrd"
    assert b"Segment1_Name:=core" in data[:2000]
    assert b"Segment1_LabelValue:=4" in data[:2000]


def test_every_output_has_its_form(viewer):
    [first, *_] = json.loads(viewer.ask("GET", "/datastore/?output=all")[2])["objects"]
    status, headers, data = viewer.ask("POST", f"/infer/ball?image={first}&output=image", b"")
    assert (status, headers["content-type"]) == (200, "application/octet-stream")
    assert read_nrrd(data).voxels.dtype == np.uint8
    status, headers, data = viewer.ask("POST", f"/infer/ball?image={first}&output=json", b"")
    assert (status, headers["content-type"]) == (200, "application/json")
    assert set(json.loads(data)["volumes_ml"]) == {"ball", "core"}
    status, _, data = viewer.ask("POST", f"/infer/ball?image={first}&output=dicom_seg", b"")
    assert (status, json.loads(data)["title"]) == (422, "unusable")  # the cohort holds no DICOM


def test_boxes_are_slicers_regions_of_interest(viewer, scan):
    name, data, params = viewer.infer("spots", files={"file": ("scan.nii.gz", write_nifti(scan))})
    assert name == "result.json"
    said = json.loads(data)
    assert said["@schema"].endswith("markups-schema-v1.0.3.json#")
    assert len(said["markups"]) == len(params["label"]) == len(params["box"])
    for roi in said["markups"]:
        axes = np.array(roi["orientation"]).reshape(3, 3)
        assert np.allclose(axes.T @ axes, np.eye(3), atol=1e-5)
        assert np.allclose(np.abs(axes), np.abs(scan.affine[:3, :3] / np.linalg.norm(scan.affine[:3, :3], axis=0)), atol=1e-5)


def test_a_diagnosis_lists_findings_the_most_probable_first(viewer, scan):
    name, data, params = viewer.infer("finds", files={"file": ("scan.nrrd", write_nrrd(scan))})
    assert name == "result.json"  # Slicer wants a file in every answer
    assert json.loads(data)["prediction"] == params["prediction"]
    assert {one["label"]: one["idx"] for one in params["prediction"]} == {"ball": 1, "core": 2}
    scores = [one["score"] for one in params["prediction"]]
    assert scores == sorted(scores, reverse=True)


def test_what_is_asked_for_twice_is_sent_once(viewer, scan):
    session = viewer.session("scan.nii.gz", write_nifti(scan))
    name, data, _ = viewer.infer("ball", session=session)
    assert viewer.infer("ball", session=session, files={})[1] == data
    status, _, said = viewer.ask("GET", f"/session/{session}")
    assert (status, json.loads(said)["expiry"]) == (200, 3600)
    assert viewer.ask("DELETE", f"/session/{session}")[0] == 200
    assert viewer.ask("GET", f"/session/{session}")[0] == 404
    assert name == "result.nrrd"


def test_a_session_ends_by_itself(viewer, scan):
    status, said, _ = viewer.form("PUT", "/session/?expiry=1", {}, {"files": ("scan.nii.gz", write_nifti(scan))})
    assert status == 200
    wait_until(lambda: viewer.ask("GET", f"/session/{said['session_id']}")[0] == 404, seconds=10)


def test_a_label_is_a_further_version_and_never_overwritten(viewer, root, tmp_path):
    unlabelled(root)
    status, sample = viewer.next_sample("first", {"client_id": "kim"})
    assert status == 200
    image = viewer.ask("GET", f"/datastore/image?image={sample['id']}")[2]
    volume = read_nrrd(image)
    algorithm, _, digest = sample["checksum"].partition(":")
    assert algorithm == "SHA256"
    assert viewer.ask("HEAD", f"/datastore/image?image={sample['id']}&check_sum=SHA256:{digest}")[0] == 200
    assert viewer.ask("HEAD", f"/datastore/image?image={sample['id']}&check_sum=SHA256:00")[0] == 404
    masks = [np.zeros(volume.voxels.shape, np.uint8) for _ in range(2)]
    masks[0][0, 3:7, 3:7, 3:7], masks[1][0, 2:9, 3:7, 3:7] = 1, 2
    for mask in masks:
        status, said = viewer.save_label(sample["id"], "label.nii.gz", write_nifti(Volume(mask, volume.affine)), CLAIMED)
        assert (status, said["tag"]) == (200, "final")
    status, headers, data = viewer.ask("GET", f"/datastore/label?label={sample['id']}&tag=final")
    assert status == 200
    assert "filename=" in headers["content-disposition"]
    assert np.array_equal(read_nrrd(data).voxels, masks[1])
    from medray.annotation.store import LabelStore
    from medray.storage.location import locate

    history = LabelStore(locate(root)).history(series=sample["id"])
    assert [
        np.array_equal(LabelStore(locate(root)).mask(one).voxels, mask) for one, mask in zip(history, masks, strict=True)
    ] == [
        True,
        True,
    ]
    assert viewer.next_sample("first", {})[1]["id"] != sample["id"]
    assert viewer.info()["datastore"] == {
        "total": len(open_cohort(root).rows),
        "completed": 1,
        "label_tags": {"final": 1},
    }


def test_ohif_sends_voxels_without_a_header(viewer, root):
    row = open_cohort(root).rows[0]
    volume = open_cohort(root).volume(row)
    mask = np.zeros(volume.shape, np.uint8)
    mask[1:5, 2:6, 3:8] = 1
    status, _ = viewer.save_label(row.series, "label.bin", mask.tobytes(order="F"), CLAIMED)
    assert status == 200
    assert np.array_equal(read_nrrd(viewer.ask("GET", f"/datastore/label?label={row.series}&tag=final")[2]).voxels[0], mask)


def test_a_label_that_does_not_fit_is_refused(viewer, root):
    row = open_cohort(root).rows[0]
    volume = open_cohort(root).volume(row)
    small = Volume(np.zeros((1, 3, 3, 3), np.uint8), volume.affine)
    assert viewer.save_label(row.series, "label.nii.gz", write_nifti(small), CLAIMED)[0] == 400
    nine = Volume(np.full(volume.voxels.shape, 9, np.uint8), volume.affine)
    status, said = viewer.save_label(row.series, "label.nrrd", write_nrrd(nine), CLAIMED)
    assert (status, said["title"]) == (400, "unknown-label")
    assert viewer.save_label("nobody", "label.nrrd", write_nrrd(nine), CLAIMED)[0] == 404
    assert viewer.ask("PUT", f"/datastore/label?image={row.series}", b"", {})[0] == 400


def test_a_reviewer_approves_and_takes_back(viewer, root):
    row = open_cohort(root).rows[0]
    volume = open_cohort(root).volume(row)
    mask = Volume(np.ones(volume.voxels.shape, np.uint8), volume.affine)
    assert viewer.save_label(row.series, "label.nrrd", write_nrrd(mask), CLAIMED, tag="version_1")[0] == 200
    meta = {"segmentationMeta": {"status": "approved", "level": "easy", "approvedBy": "lee", "comment": ""}}
    body = urlencode({"params": json.dumps(meta)}).encode()
    kind = {"content-type": "application/x-www-form-urlencoded"}
    assert viewer.ask("PUT", f"/datastore/updatelabelinfo?label={row.series}&tag=version_1", body, kind)[0] == 200
    listed = json.loads(viewer.ask("GET", "/datastore/?output=all")[2])["objects"][row.series]
    assert listed["labels"]["version_1"]["info"]["segmentationMeta"]["status"] == "approved"
    assert json.loads(viewer.ask("GET", f"/datastore/label/info?label={row.series}&tag=version_1")[2])["segmentationMeta"]
    assert viewer.ask("DELETE", f"/datastore/label?id={row.series}&tag=version_1")[0] == 200
    assert viewer.ask("GET", f"/datastore/label?label={row.series}&tag=version_1")[0] == 404


def test_an_image_that_slicer_sends_is_known_by_its_name_and_stored_under_another(viewer, root, scan):
    status, said = viewer.upload("Jane_Doe", "Jane_Doe.nii.gz", write_nifti(scan))
    assert status == 200
    assert said["image"] != "Jane_Doe"
    assert viewer.upload("Jane_Doe", "Jane_Doe.nii.gz", write_nifti(scan))[1] == said
    assert np.array_equal(read_nrrd(viewer.ask("GET", "/datastore/image?image=Jane_Doe")[2]).voxels, scan.voxels)
    assert viewer.infer("ball", "Jane_Doe")[0] == "result.nrrd"
    assert (
        viewer.save_label(
            "Jane_Doe", "label.nii.gz", write_nifti(Volume(np.ones_like(scan.voxels, np.uint8), scan.affine)), CLAIMED
        )[0]
        == 200
    )
    other = Volume(scan.voxels + 1, scan.affine)
    assert viewer.upload("Jane_Doe", "Jane_Doe.nii.gz", write_nifti(other))[0] == 422
    assert not any(b"Jane" in file.read_bytes() for file in root.rglob("*") if file.is_file())
    assert b"Jane" not in (root.parent / "labels.db").read_bytes()


def test_dicom_is_not_taken_in_without_deidentification(viewer, scan):
    from medray.formats.dicom_series import write_dicom_series
    from tests.formats.test_dicom import WHO

    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for number, data in enumerate(write_dicom_series(scan, WHO)):
            archive.writestr(f"{number}.dcm", data)
    status, said = viewer.upload("scan", "scan.zip", packed.getvalue())
    assert (status, "medray ingest" in said["detail"]) == (422, True)


def test_who_needs_a_token_logs_in_with_it(home, root, monkeypatch):
    monkeypatch.setenv("MEDRAY_HOME", str(home))
    with endpoint(limits=Limits(cohort=str(root)), doors=Doors()) as client:
        url = f"http://{client.base_url.host}:{client.base_url.port}/monailabel"
        stranger = Viewer(url)
        assert json.loads(stranger.ask("GET", "/auth/")[2])["enabled"] is True
        assert stranger.ask("GET", "/info/")[0] == 401
        assert stranger.login("kim", "no token")[0] == 401
        status, said = stranger.login("kim", make_token("kim", "annotator"))
        assert status == 200
        kim = Viewer(url, said["access_token"])
        assert json.loads(kim.ask("GET", "/auth/token/valid")[2])["roles"] == ["monailabel-annotator"]
        assert kim.info()["name"] == "medray"
        assert kim.ask("POST", "/train/ball", {"epochs": 1})[0] == 403
        assert kim.ask("DELETE", "/datastore/label?id=x&tag=final")[0] == 403
        session = kim.session("scan.nrrd", b"anything")
        assert Viewer(url, make_token("lee", "annotator")).ask("GET", f"/session/{session}")[0] == 404


def test_a_model_labels_many_images(viewer, root):
    unlabelled(root)
    assert viewer.ask("GET", "/batch/infer/?check_if_running=true")[0] == 404
    status, _, said = viewer.ask("POST", "/batch/infer/ball?images=unlabeled", {})
    assert (status, json.loads(said)["status"]) == (200, "RUNNING")
    wait_until(lambda: json.loads(viewer.ask("GET", "/batch/infer/")[2])["status"] != "RUNNING", seconds=60)
    done = json.loads(viewer.ask("GET", "/batch/infer/")[2])
    assert done["status"] == "DONE", done["details"]
    counts = viewer.info()["datastore"]
    assert counts["label_tags"] == {"original": len(open_cohort(root).rows)}
    assert counts["completed"] == 0  # nobody has looked at them


def test_models_can_be_taken_home(viewer):
    status, headers, data = viewer.ask("GET", "/model/ball")
    assert status == 200
    assert int(headers["content-length"]) == len(data) > 1000
    assert json.loads(viewer.ask("GET", "/model/info/ball")[2])["model"] == "ball/1"
    status, headers, data = viewer.ask("GET", "/datastore/dataset?limit_cases=2")
    names = zipfile.ZipFile(io.BytesIO(data)).namelist()
    assert (status, len(names)) == (200, 5)
    assert viewer.ask("GET", "/logs/")[0] == viewer.ask("GET", "/logs/gpu")[0] == viewer.ask("GET", "/")[0] == 200


def test_without_a_cohort_models_answer_and_the_rest_says_so(home, monkeypatch, scan):
    monkeypatch.setenv("MEDRAY_HOME", str(home))
    with endpoint() as client:
        viewer = Viewer(f"http://{client.base_url.host}:{client.base_url.port}/monailabel")
        assert viewer.info()["strategies"] == {}
        assert viewer.infer("ball", files={"file": ("scan.nrrd", write_nrrd(scan))})[0] == "result.nrrd"
        status, _, said = viewer.ask("POST", "/infer/ball?image=x", b"")
        assert (status, "cohort=ROOT" in json.loads(said)["detail"]) == (404, True)
        assert viewer.ask("POST", "/infer/ball", b"")[0] == 422


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.slow
def test_training_makes_a_new_version_that_is_served(viewer, root):
    """Button 'Train' in Slicer: final labels become a version of the cohort, and that a version of the model."""
    assert viewer.ask("GET", "/train/?check_if_running=true")[0] == 404
    status, _, said = viewer.ask("POST", "/train/ball", {"epochs": 1, "steps": 2, "client_id": "kim"})
    assert (status, json.loads(said)["status"]) == (200, "RUNNING")
    assert viewer.ask("POST", "/train/ball", {})[0] == 429
    assert json.loads(viewer.ask("GET", "/train/?check_if_running=true")[2])["status"] == "RUNNING"
    wait_until(lambda: json.loads(viewer.ask("GET", "/train/")[2])["status"] != "RUNNING", seconds=180)
    done = json.loads(viewer.ask("GET", "/train/")[2])
    assert done["status"] == "DONE", done["details"]
    assert [version.version for version in medray.Registry().versions("ball")] == [1, 2, 3]
    status, _, said = viewer.ask("POST", "/train/", {"ball": {"epochs": 1000}})
    time.sleep(1)
    assert json.loads(viewer.ask("DELETE", "/train/")[2])["status"] == "STOPPED"
    assert viewer.ask("GET", "/train/?check_if_running=true")[0] == 404
    assert open_cohort(root).index.labels == LABELS


def test_whole_slides_are_refused_in_words(viewer):
    status, _, said = viewer.ask("POST", "/infer/wsi_v2/ball", b"{}")
    assert status == 404
    assert b"whole slides" in said


def test_a_build_of_ohif_is_served_and_nothing_beside_it(home, monkeypatch, tmp_path):
    monkeypatch.setenv("MEDRAY_HOME", str(home))
    (tmp_path / "dist").mkdir()
    (tmp_path / "secret.js").write_text("no")
    for name in ("index.html", "app.js", "codec.wasm"):
        (tmp_path / "dist" / name).write_text(name)
    with endpoint(limits=Limits(ohif=str(tmp_path / "dist")), doors=Doors()) as client:
        for path, said, kind in (
            ("", "index.html", "text/html"),
            ("viewer?StudyInstanceUIDs=1.2", "index.html", "text/html"),
            ("app.js", "app.js", "text/javascript"),
            ("codec.wasm", "codec.wasm", "application/wasm"),
        ):
            reply = client.get(f"/monailabel/ohif/{path}")
            assert (reply.text, reply.headers["content-type"].split(";")[0]) == (said, kind)
        assert [client.get(f"/monailabel/ohif/{path}").status_code for path in ("gone.js", "..%2Fsecret.js")] == [404, 404]
