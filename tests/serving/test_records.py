"""What a replica keeps of its predictions, and that each can be made again to the last bit."""

import io
import json
import os
import signal
import time
import zipfile
from dataclasses import replace

import httpx
import numpy as np
import pytest
import ray

import medray
from medray.errors import ConflictError, InputError
from medray.formats.dicom_series import SeriesIdentity, write_dicom_series
from medray.formats.nifti import write_nifti
from medray.formats.nrrd import write_nrrd
from medray.inference.replay import replay
from medray.monitoring.features import FEATURES
from medray.monitoring.journal import Journal
from medray.monitoring.records import find_record, read_records, records_root, write_records
from medray.storage.location import locate
from tests.phantoms import grid, orientations, phantom
from tests.ports import free_port
from tests.waiting import wait_until

pytestmark = pytest.mark.ray
WHO = SeriesIdentity(patient="Doe-4711", study="study-of-Doe", series="series-of-Doe")


def scan(seed, shape=(5, 4, 3)):
    return phantom(np.random.default_rng(seed), grid(list(orientations())[seed], (2.0, 2.0, 2.5), shape))[0]


@pytest.fixture(scope="module")
def endpoint(local_ray, home, phantom_cohort, tmp_path_factory):
    """An endpoint with sources and a cohort; its url, and what its records are after it ended."""
    sources = tmp_path_factory.mktemp("sources")
    (sources / "one.nii.gz").write_bytes(write_nifti(scan(3)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDRAY_HOME", str(home))
        settings = {"sources": (str(sources),), "cohort": phantom_cohort.root.path, "insecure": True, "records_s": 0.3}
        with medray.deploy(["ball", "spots", "finds"], port=free_port(), **settings) as running:
            yield running.url, sources


@pytest.fixture(autouse=True)
def _at_home(home, monkeypatch):
    monkeypatch.setenv("MEDRAY_HOME", str(home))


def asked(endpoint, body, kind="segment", model="ball", **headers):
    return httpx.post(f"{endpoint[0]}/v1/{kind}/{model}", content=body, headers=headers, timeout=60)


def recorded(reply):
    """The record of a reply, as soon as it is on the store and complete."""
    id_ = reply.headers["x-medray-prediction"]
    root = records_root()

    def there():
        try:
            return bool(find_record(root, id_).output_sha256)
        except medray.MedrayError:
            return False

    wait_until(there, seconds=90)
    return find_record(root, id_)


def zipped(volume):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number, data in enumerate(write_dicom_series(volume, WHO)):
            archive.writestr(f"{number}.dcm", data)
    return buffer.getvalue()


def test_each_prediction_can_be_made_again_to_the_last_bit(endpoint, tmp_path, phantom_cohort):
    image = phantom_cohort.rows[0].series
    asks = {
        "nifti": (write_nifti(scan(3)), {}, {}),
        "large": (write_nrrd(scan(4, (60, 50, 40))), {}, {}),
        "zip": (zipped(scan(5)), {}, {}),
        "uri": (json.dumps({"uri": f"{endpoint[1]}/one.nii.gz"}).encode(), {"content-type": "application/json"}, {}),
        "image": (
            json.dumps({"image": image}).encode(),
            {"content-type": "application/json"},
            {"cohort": phantom_cohort.root.path},
        ),
    }
    replies = {name: asked(endpoint, body, **headers) for name, (body, headers, _) in asks.items()}
    assert {reply.status_code for reply in replies.values()} == {200}
    for name, reply in replies.items():
        assert reply.json()["prediction"] == reply.headers["x-medray-prediction"]
        record = recorded(reply)
        body, headers, more = asks[name]
        source = tmp_path / name
        source.write_bytes(body)
        found = replay(record.id, records_root(), source="" if headers else source, **more)
        assert found.same, name
        assert found.differs == {}
        assert found.prediction.plain()["volumes_ml"] == reply.json()["volumes_ml"]
        assert {"volume ball", "confidence", "entropy", *FEATURES} <= record.numbers.keys()
        assert len(record.embedding) > 4
        assert record.latencies == reply.json()["latencies"]


def test_it_is_said_what_made_a_prediction_elsewhere(endpoint, tmp_path):
    (tmp_path / "scan").write_bytes(write_nifti(scan(6)))
    record = recorded(asked(endpoint, (tmp_path / "scan").read_bytes()))
    assert record.device == "cpu"
    assert record.software.startswith(f"medray {medray.__version__}, torch ")
    elsewhere = replace(record, id="elsewhere", device="NVIDIA H100", software="medray 0.0.1, torch 2.0")
    write_records(records_root(), [elsewhere], name="elsewhere")
    found = replay("elsewhere", records_root(), source=tmp_path / "scan")
    assert found.differs == {"device": "NVIDIA H100", "software": "medray 0.0.1, torch 2.0"}
    write_records(records_root(), [replace(elsewhere, device="", software="")], name="elsewhere")
    assert replay("elsewhere", records_root(), source=tmp_path / "scan").differs == {}, "an older medray said less"


@pytest.mark.parametrize(("kind", "model"), [("detect", "spots"), ("diagnose", "finds")])
def test_other_tasks_too(endpoint, tmp_path, kind, model):
    (tmp_path / "scan").write_bytes(write_nifti(scan(6)))
    record = recorded(asked(endpoint, (tmp_path / "scan").read_bytes(), kind, model))
    assert replay(record.id, records_root(), source=tmp_path / "scan").same
    assert record.numbers.keys() >= ({"boxes"} if kind == "detect" else {"probability ball", "probability core"})


def test_images_that_went_together_too(endpoint, tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    bodies = [write_nifti(scan(seed)) for seed in range(3, 15)]
    with ThreadPoolExecutor(12) as callers:
        replies = list(callers.map(lambda body: asked(endpoint, body), bodies))
    records = [recorded(reply) for reply in replies]
    for body, record in zip(bodies, records, strict=True):
        (tmp_path / "scan").write_bytes(body)
        assert replay(record.id, records_root(), source=tmp_path / "scan").same


def test_a_refusal_is_a_record_without_an_answer(endpoint, tmp_path):
    damaged = write_nifti(scan(3))[:500]
    assert asked(endpoint, damaged).status_code == 400

    def refusals():
        return [record for record in read_records(records_root(), "ball") if record.status == 400]

    wait_until(lambda: bool(refusals()), seconds=90)
    [record] = refusals()
    assert record.reason
    with pytest.raises(ConflictError, match="was refused"):
        replay(record.id, records_root(), source=tmp_path)


def test_another_image_is_not_taken_for_the_one(endpoint, tmp_path):
    record = recorded(asked(endpoint, write_nifti(scan(3))))
    (tmp_path / "other").write_bytes(write_nifti(scan(4)))
    with pytest.raises(InputError, match="isn't the image"):
        replay(record.id, records_root(), source=tmp_path / "other")
    with pytest.raises(InputError, match="keeps no image"):
        replay(record.id, records_root())


def test_a_record_names_nobody(endpoint):
    record = recorded(asked(endpoint, zipped(scan(5))))
    assert len(record.subject) == len(record.study) == len(record.series) == 16
    text = str(read_records(records_root(), "ball"))
    assert record.id in text
    for secret in ("Doe", str(endpoint[1])):
        assert secret not in text


def test_a_killed_replica_leaves_every_answer_it_gave(endpoint):
    replies = [asked(endpoint, write_nifti(scan(seed))) for seed in range(3, 9)]
    actor = next(one for one in ray.util.list_named_actors(all_namespaces=True) if "Pool" in one["name"])
    pid = ray.get(ray.get_actor(**actor).__ray_call__.remote(lambda replica: os.getpid()))
    os.kill(pid, signal.SIGKILL)
    ids = {reply.headers["x-medray-prediction"] for reply in replies}

    wait_until(lambda: asked(endpoint, write_nifti(scan(3))).status_code == 200)
    wait_until(lambda: ids <= {record.id for record in read_records(records_root(), "ball")}, seconds=60)


def test_a_store_that_is_away_stops_no_answer(local_ray, home, tmp_path, monkeypatch):
    import asyncio

    from medray.models.runtime import Runtime
    from medray.monitoring.metrics import Meters
    from medray.serving.ticket import Ticket
    from medray.serving.witness import Told, Witness

    (tmp_path / "full").write_text("")
    witness = Witness(Journal(locate(tmp_path / "full" / "x"), tmp_path / "full" / "y"), Runtime(), Meters(), pytest.fail)
    asyncio.run(witness.tell(Told(Ticket(), "ball/1", "segmentation", [b"x"])))
    started = time.monotonic()
    witness.close()
    assert time.monotonic() - started < 30
