"""The pool under way: from zero, with any model, with aliases that move and replicas that die."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from ray import serve

import medray
from medray.formats.nifti import read_nifti, write_nifti
from medray.formats.nrrd import read_nrrd
from medray.imaging.volume import Volume
from tests.ports import free_port
from tests.waiting import wait_until

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def url(local_ray, home):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDRAY_HOME", str(home))
        from_zero: dict[str, Any] = {"min_replicas": 0, "max_replicas": 2, "idle_s": 3.0, "refresh_s": 0.1}
        with medray.deploy(port=free_port(), insecure=True, **from_zero) as running:
            yield running.url


@pytest.fixture
def store(home, monkeypatch):
    monkeypatch.setenv("MEDRAY_HOME", str(home))
    return medray.Registry()


def ask(url, scan, model="ball", task="segment", accept="application/x-nifti", timeout=60):
    body = scan if isinstance(scan, bytes) else write_nifti(scan)
    return httpx.post(f"{url}/v1/{task}/{model}", content=body, headers={"accept": accept}, timeout=timeout)


def replicas():
    return serve.status().applications["medray"].deployments["Pool"].replica_states.get("RUNNING", 0)


def pool_processes():
    found = [child for child in psutil.Process(os.getpid()).children(recursive=True) if child.is_running()]
    return [child for child in found if "ServeReplica:medray:Pool" in "".join(child.cmdline()[:1])]


def expected(store, scan, model):
    return medray.Predictor.load(store.fetch(model)).predict(scan).mask.voxels


def test_the_first_request_starts_a_replica_and_an_idle_one_goes(url, scan, store):
    assert replicas() == 0
    started = time.monotonic()
    reply = ask(url, scan)
    assert reply.status_code == 200
    assert np.array_equal(read_nifti(reply.content).voxels, expected(store, scan, "ball/1"))
    assert time.monotonic() - started < 60
    assert replicas() == 1
    wait_until(lambda: replicas() == 0)


def test_any_registered_model_by_name_alias_or_version(url, scan, store):
    for model in ("ball", "ball@champion", "ball/1", "ball/2"):
        reply = ask(url, scan, model, accept="application/x-nrrd")
        assert reply.headers["x-medray-model"] == ("ball/2" if model == "ball/2" else "ball/1")
        assert np.array_equal(read_nrrd(reply.content).voxels, expected(store, scan, reply.headers["x-medray-model"]))
    assert isinstance(ask(url, scan, "spots", "detect", "application/json").json()["boxes"], list)
    refused = ask(url, scan, "spots", "detect")
    assert (refused.status_code, refused.json()["detail"]) == (422, "this model gives no image: ask for json")
    refused = ask(url, scan, "spots")
    assert (refused.status_code, refused.json()["detail"]) == (422, "spots/1 is for detection, not segmentation")
    assert [model["model"] for model in httpx.get(f"{url}/v1/models").json()["models"]] == ["ball/1", "finds/1", "spots/1"]


def test_an_alias_moves_without_a_restart_and_without_a_failed_request(url, scan, store):
    answers, stop = [], threading.Event()
    one, two = (expected(store, scan, f"ball/{version}") for version in (1, 2))
    assert not np.array_equal(one, two)

    def keep_asking():
        while not stop.is_set():
            answers.append(ask(url, scan, "ball@champion"))

    ask(url, scan, "ball@champion")
    before = {process.pid for process in pool_processes()}
    asking = [threading.Thread(target=keep_asking) for _ in range(3)]
    for thread in asking:
        thread.start()
    try:
        for version in (2, 1, 2, 1, 2, 1):
            store.promote(f"ball/{version}")
            wait_until(lambda there=f"ball/{version}": answers and answers[-1].headers.get("x-medray-model") == there)
    finally:
        stop.set()
        for thread in asking:
            thread.join()
    assert before <= {process.pid for process in pool_processes()}, "no replica was replaced"
    for answer in answers:
        assert answer.status_code == 200
        truth = two if answer.headers["x-medray-model"] == "ball/2" else one
        assert np.array_equal(read_nifti(answer.content).voxels, truth)


def test_a_replica_that_dies_costs_no_answer(url, scan, store):
    truth = expected(store, scan, "ball/1")
    ask(url, scan, "ball/1")
    with ThreadPoolExecutor(4) as callers:
        asked = [callers.submit(ask, url, scan, "ball/1") for _ in range(40)]
        wait_until(lambda: any(call.done() for call in asked))
        for process in pool_processes():
            process.kill()
    for answer in (call.result() for call in asked):
        assert answer.status_code in (200, 503)
        if answer.status_code == 200:
            assert np.array_equal(read_nifti(answer.content).voxels, truth)
        else:
            assert answer.headers["retry-after"]
    assert sum(call.result().status_code == 200 for call in asked) > 35


def test_who_hangs_up_is_no_longer_worked_for(url, scan):
    """The network would take minutes for the one, and the other is answered long before."""
    pattern = (np.indices((512, 512, 384)).sum(axis=0) % 7).astype(np.uint8)[np.newaxis]
    large = write_nifti(Volume(pattern, np.diag([2.0, 2.0, 2.5, 1.0])))
    ask(url, scan, "ball/1")
    with pytest.raises(httpx.ReadTimeout):
        ask(url, large, "ball/1", timeout=6)
    assert ask(url, scan, "ball/1", timeout=15).status_code == 200
