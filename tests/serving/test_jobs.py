"""What is answered later: with progress, for its owner, cancelled, and through a gateway's death."""

import json
import threading
import time

import numpy as np
import pytest

from medray.errors import NotFoundError, StorageError
from medray.formats.nifti import read_nifti, write_nifti
from medray.imaging.volume import Volume
from medray.serving import jobs
from medray.serving.auth import Principal, Role, make_token
from medray.serving.desk import Limits
from medray.serving.gateway import Doors
from medray.serving.jobs import OVER, Docket
from tests.serving.inside import endpoint
from tests.serving.test_auth import bearer
from tests.waiting import wait_until

KIM, LEE, OPS = Principal("kim", Role.ANNOTATOR), Principal("lee", Role.VIEWER), Principal("ops", Role.OPERATOR)


@pytest.fixture(autouse=True)
def _models(home, monkeypatch):
    monkeypatch.setenv("MEDRAY_HOME", str(home))


def submit(client, body, path="/v1/segment/ball", **headers):
    return client.post(path, content=body, headers={"prefer": "respond-async", "accept": "application/x-nifti", **headers})


def over(client, job, **headers):
    wait_until(lambda: client.get(f"/v1/jobs/{job}", headers=headers).json()["state"] in OVER)
    return client.get(f"/v1/jobs/{job}", headers=headers).json()


def large(side=200):
    pattern = (np.indices((side,) * 3).sum(axis=0) % 7).astype(np.uint8)[np.newaxis]
    return write_nifti(Volume(pattern, np.diag([2.0, 2.0, 2.5, 1.0])))


def test_the_answer_is_what_the_request_would_have_got(scan):
    with endpoint() as client:
        taken = submit(client, write_nifti(scan))
        assert taken.status_code == 202
        job = taken.json()["id"]
        assert taken.headers["location"] == f"/v1/jobs/{job}"
        said = over(client, job)
        assert (said["state"], said["progress"], said["model"]) == ("done", 1.0, "ball/1")
        answer = client.get(said["links"]["result"])
        direct = client.post("/v1/segment/ball", content=write_nifti(scan), headers={"accept": "application/x-nifti"})
        assert answer.headers["content-type"] == "application/x-nifti"
        assert answer.content == direct.content
        assert client.get("/v1/jobs").json()["jobs"][0]["id"] == job


def test_progress_rises_while_windows_are_done():
    seen = set()
    with endpoint() as client:
        job = submit(client, large(240)).json()["id"]
        assert client.get(f"/v1/jobs/{job}/result").status_code == 409

        def done():
            said = client.get(f"/v1/jobs/{job}").json()
            seen.add(said["progress"])
            return said["state"] in OVER

        wait_until(done)
        assert client.get(f"/v1/jobs/{job}").json()["state"] == "done"
    assert any(0 < share < 1 for share in seen)


def test_a_cancelled_job_ends_and_the_next_one_goes_on(scan):
    with endpoint() as client:
        job = submit(client, large(400)).json()["id"]
        wait_until(lambda: client.get(f"/v1/jobs/{job}").json()["state"] == "running")
        assert client.delete(f"/v1/jobs/{job}").json()["state"] == "cancelled"
        assert over(client, submit(client, write_nifti(scan)).json()["id"])["state"] == "done"
        assert client.get(f"/v1/jobs/{job}").json()["state"] == "cancelled"
        assert client.get(f"/v1/jobs/{job}/result").status_code == 409


def test_what_is_refused_is_refused_as_the_request_would_have_been(scan):
    with endpoint() as client:
        said = over(client, submit(client, b"no image").json()["id"])
        assert (said["state"], said["status"]) == ("failed", 415)
        assert client.get(said["links"]["result"]).json()["title"] == "unknown-format"
        assert submit(client, b"{}", **{"content-type": "application/json"}).status_code == 422
        assert submit(client, write_nifti(scan), path="/v1/segment/none").status_code == 404


def test_a_reference_may_wait_too(scan, tmp_path):
    (tmp_path / "scan.nii.gz").write_bytes(write_nifti(scan))
    with endpoint(limits=Limits(sources=(str(tmp_path),))) as client:
        body = json.dumps({"uri": str(tmp_path / "scan.nii.gz")}).encode()
        said = over(client, submit(client, body, **{"content-type": "application/json"}).json()["id"])
        assert read_nifti(client.get(said["links"]["result"]).content).shape == scan.shape


def test_jobs_are_their_owner_s_and_an_operator_s(scan):
    kim, lee, ops = (
        bearer(make_token(name, role)) for name, role in (("kim", "annotator"), ("lee", "reviewer"), ("ops", "operator"))
    )
    with endpoint(doors=Doors()) as client:
        job = submit(client, write_nifti(scan), **kim).json()["id"]
        over(client, job, **kim)
        for path in (f"/v1/jobs/{job}", f"/v1/jobs/{job}/result"):
            assert client.get(path, headers=lee).status_code == 404
            assert client.get(path, headers=ops).status_code == 200
        assert client.delete(f"/v1/jobs/{job}", headers=lee).status_code == 404
        assert job not in [known["id"] for known in client.get("/v1/jobs", headers=lee).json()["jobs"]]
        assert client.get("/v1/jobs").status_code == 401


def test_a_job_outlives_its_gateway(scan, home):
    """The first gateway stops while it works; the next one does the work again, from the input that was kept."""
    with endpoint() as client:
        job = submit(client, large(400)).json()["id"]
        wait_until(lambda: client.get(f"/v1/jobs/{job}").json()["state"] == "running")
    assert Docket().get(job, OPS).state == "queued"
    with endpoint() as client:
        wait_until(lambda: client.get(f"/v1/jobs/{job}").json()["state"] == "running")
        client.delete(f"/v1/jobs/{job}")


@pytest.fixture
def docket(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDRAY_HOME", str(tmp_path / "own"))
    return Docket()


def added(docket, owner="kim"):
    return docket.add(owner, "ball/1", "segmentation", "application/json", b"image", referred=False)


def test_a_job_whose_gateway_died_is_taken_by_another_one_and_not_for_ever(docket, monkeypatch):
    job = added(docket)
    assert docket.claim().id == job.id
    assert docket.claim() is None, "somebody has it"
    monkeypatch.setattr(jobs, "LEASE_S", 0.0)
    assert docket.keep(job.id, 0.5)
    for _ in range(2):
        time.sleep(0.01)
        assert docket.claim().id == job.id
    time.sleep(0.01)
    assert docket.claim() is None, "three died over it"
    assert docket.get(job.id, KIM).state == "failed"


def test_two_who_claim_at_once_get_two_jobs(docket):
    made, got, lock = {added(docket).id for _ in range(20)}, [], threading.Lock()

    def claim():
        while job := docket.claim():
            with lock:
                got.append(job.id)

    threads = [threading.Thread(target=claim) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == sorted(made)


def test_answers_are_deleted_when_they_are_old(docket, tmp_path):
    job, waiting = added(docket), added(docket)
    docket.claim()
    docket.finish(job.id, 200, "application/json", b"{}")
    assert docket.answer(job.id) == b"{}"
    assert docket.purge(older_s=60) == 0
    assert docket.purge(older_s=-1) == 1
    with pytest.raises(NotFoundError):
        docket.get(job.id, KIM)
    assert docket.get(waiting.id, KIM).state == "queued"
    assert not list((tmp_path / "own" / "jobs" / job.id).glob("*"))


def test_a_cancelled_job_stays_so_whatever_its_worker_says(docket):
    job = added(docket)
    docket.claim()
    docket.cancel(job.id)
    assert not docket.keep(job.id, 0.5)
    docket.finish(job.id, 200, "application/json", b"{}")
    assert docket.get(job.id, OPS).state == "cancelled"
    with pytest.raises(NotFoundError):
        docket.get(job.id, LEE)


def test_a_moment_without_the_database_begins_no_job_again(scan, monkeypatch):
    monkeypatch.setattr("medray.serving.clerk.KEEP_S", 0.05)
    keep = Docket.keep
    away: list[str] = []

    def kept(docket, number, progress):
        if len(away) < 5:
            away.append(number)
            raise StorageError("the database is away")
        return keep(docket, number, progress)

    monkeypatch.setattr(Docket, "keep", kept)
    with endpoint() as client:
        job = submit(client, large(200)).json()["id"]
        assert over(client, job)["state"] == "done"
        assert Docket().get(job, OPS).attempts == 1
    assert len(away) == 5
