"""A model on all of a folder, a bucket and a cohort: what a prediction alone says, whatever else is there, and after a kill."""

import json
import os
import signal
import subprocess
import sys
from io import BytesIO

import numpy as np
import pytest
from pydicom import dcmread

import medray
from medray.errors import ConfigError, InputError, NotFoundError
from medray.formats.dicom_series import write_dicom_series
from medray.formats.nifti import read_nifti, write_nifti
from medray.inference.batch import predict_all
from medray.inference.predict import predict
from medray.inference.replay import replay
from medray.models.runtime import Runtime
from medray.monitoring.journal import journals_folder
from medray.monitoring.records import read_records, records_root
from medray.registry.card import ModelCard
from medray.storage.location import TEMPORARY_PREFIX, locate
from tests.formats.test_dicom import WHO
from tests.inference.test_predictor import model_folder
from tests.phantoms import grid, orientations, phantom
from tests.services import s3_server
from tests.waiting import wait_until

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def home(phantom_cohort, tmp_path_factory):
    place = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDRAY_HOME", str(place))
        folder = model_folder(place / "model", phantom_cohort)
        plan = medray.Predictor.load(folder).plan
        card = ModelCard(name="ball", created="2026-01-01", plan=plan, scores={}, subjects={})
        medray.Registry().register(card, locate(folder))
    return place


@pytest.fixture(autouse=True)
def _models(local_ray, home, monkeypatch):
    monkeypatch.setenv("MEDRAY_HOME", str(home))


def scan(seed):
    return phantom(np.random.default_rng(seed), grid(list(orientations())[seed], (2.0, 2.0, 2.5), (5, 4, 3)))[0]


def write_source(write):
    """Four images, two of them in one folder as DICOM, one damaged file, and files that are no images."""
    for seed in (0, 1):
        write(f"a/scan.{seed}.nii.gz", write_nifti(scan(seed)))
    for seed, name in ((2, "x"), (3, "y")):
        identity = type(WHO)(patient=name, study=name, series=name)
        for number, data in enumerate(write_dicom_series(scan(seed), identity)):
            write(f"dicom/{name}{number}.dcm", data)
    write("broken.nii.gz", write_nifti(scan(4))[:2000])
    write("notes.txt", b"no image")


def records(output):
    return {record["name"]: record for record in json.loads(locate(output).join("predictions.json").read())}


def test_a_folder_of_everything(home, tmp_path):
    def write(name, data):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(data)

    write_source(write)
    batch = predict_all("ball", tmp_path / "in", tmp_path / "out")
    assert (batch.predicted, dict(batch.failed), batch.resumed) == (4, {"truncated": 1}, 0)
    found = records(tmp_path / "out")
    assert len(found) == 5
    predictor = medray.Predictor.load(home / "model")
    [one] = [record for name, record in found.items() if name.startswith("a-scan") and record["volumes_ml"]["ball"] > 0][:1]
    masks = [predictor.predict(scan(seed)) for seed in (0, 1)]
    written = read_nifti((tmp_path / "out" / one["file"]).read_bytes())
    assert any(mask.mask.shape == written.shape and np.array_equal(mask.mask.voxels, written.voxels) for mask in masks)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "images").iterdir()}
    again = predict_all("ball", tmp_path / "in", tmp_path / "out")
    assert again.resumed == 5
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "images").iterdir()}
    write("a/scan.0.nii.gz", write_nifti(scan(5)))
    assert predict_all("ball", tmp_path / "in", tmp_path / "out").resumed == 4, "what changed is done again"


@pytest.mark.services
def test_a_bucket_to_a_bucket_as_dicom(tmp_path, monkeypatch):
    (tmp_path / "s3").mkdir()
    with s3_server(tmp_path / "s3") as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        bucket = server.make_bucket("scans")
        write_source(lambda name, data: locate(f"{bucket}/in/{name}").write(data))
        code = 'import sys; from medray.inference.batch import predict_all; predict_all(*sys.argv[1:], form="dicom-seg")'
        subprocess.run([sys.executable, "-c", code, "ball", f"{bucket}/in", f"{bucket}/out"], check=True)
        found = records(f"{bucket}/out")
        outcomes = sorted(record["outcome"] for record in found.values())
        assert outcomes == ["ok", "ok", "truncated", "unusable", "unusable"], "what was no DICOM can't be referred to"
        [first, _] = [record for record in found.values() if record["outcome"] == "ok"]
        assert dcmread(BytesIO(locate(f"{bucket}/out/{first['file']}").read())).Modality == "SEG"


def test_each_prediction_leaves_a_record_that_can_be_replayed(phantom_cohort, tmp_path):
    root = locate(tmp_path / "records")
    (tmp_path / "in").mkdir()
    for seed in (0, 1):
        (tmp_path / "in" / f"scan{seed}.nii.gz").write_bytes(write_nifti(scan(seed)))
    predict_all("ball", tmp_path / "in", tmp_path / "out", records=root.path)
    predict_all("ball", phantom_cohort.root.path, tmp_path / "of-cohort", records=root.path, form="json")
    predict("ball", tmp_path / "in" / "scan0.nii.gz", tmp_path / "alone.nii.gz", records=root.path)
    found = read_records(root, "ball")
    assert len(found) == 2 + len(phantom_cohort.rows) + 1
    assert all(replay(record.id, root, cohort=phantom_cohort.root.path).same for record in found)
    assert {row.subject for row in phantom_cohort.rows} <= {record.subject for record in found}
    assert len({record.input_sha256 for record in found}) == len(found) - 1
    assert str(tmp_path) not in "".join(record.reference for record in found)
    assert not list(journals_folder(root).iterdir())
    predict_all("ball", tmp_path / "in", tmp_path / "out", records=root.path)
    assert len(read_records(root, "ball")) == len(found), "what is there already isn't predicted again"


def test_by_another_runtime(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    for seed in (0, 1):
        (tmp_path / "in" / f"scan{seed}.nii.gz").write_bytes(write_nifti(scan(seed)))
    for name in ("torch", "openvino"):
        batch = predict_all("ball", tmp_path / "in", tmp_path / name, runtime=Runtime(name))
        assert batch.predicted == 2
    for record in records(tmp_path / "torch").values():
        exact, other = (read_nifti((tmp_path / by / record["file"]).read_bytes()).voxels for by in ("torch", "openvino"))
        assert (exact == other).mean() > 0.9999
    monkeypatch.setattr("medray.models.runtime.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install"):
        predict_all("ball", tmp_path / "in", tmp_path / "none", runtime=Runtime("openvino"))


def test_a_cohort(phantom_cohort, tmp_path):
    batch = predict_all("ball", phantom_cohort.root.path, tmp_path / "out", form="json")
    assert batch.predicted == len(phantom_cohort.rows)
    row = phantom_cohort.rows[0]
    said = json.loads((tmp_path / "out" / "images" / f"{row.series}.json").read_text())
    direct = medray.Predictor.load(medray.Registry().fetch("ball")).predict(phantom_cohort.volume(row))
    assert said["volumes_ml"] == direct.plain()["volumes_ml"]
    with pytest.raises(InputError, match="DICOM no more"):
        predict_all("ball", phantom_cohort.root.path, tmp_path / "out", form="dicom-seg")


def test_a_killed_run_is_finished_by_the_next(phantom_cohort, tmp_path):
    code = "import sys; from medray.inference.batch import predict_all; predict_all(*sys.argv[1:])"
    words = [sys.executable, "-c", code, "ball", phantom_cohort.root.path, str(tmp_path / "out")]
    process = subprocess.Popen(words, start_new_session=True)
    wait_until(lambda: len(list((tmp_path / "out").glob("records/*.json"))) >= 2 or process.poll() is not None, seconds=120)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    batch = predict_all("ball", phantom_cohort.root.path, tmp_path / "out")
    assert batch.resumed >= 2
    images = [path for path in (tmp_path / "out" / "images").iterdir() if not path.name.startswith(TEMPORARY_PREFIX)]
    recorded = {record.series for record in read_records(records_root(), "ball")}
    assert {row.series for row in phantom_cohort.rows} <= recorded, "those of the killed run, too"
    assert batch.predicted == len(phantom_cohort.rows) == len(images)  # what was being written when it was killed lies beside


def test_nothing_there(tmp_path):
    (tmp_path / "in").mkdir()
    for source in (tmp_path / "in", tmp_path / "none"):
        with pytest.raises(NotFoundError, match="nothing at the source"):
            predict_all("ball", source, tmp_path / "out")
