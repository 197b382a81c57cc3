import io
import json
import ssl
import zipfile
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import psutil
import pytest
from ray import serve

import medray
from medray.errors import ConfigError, NotFoundError
from medray.formats.dicom_series import write_dicom_series
from medray.formats.nifti import read_nifti, write_nifti
from medray.serving.app import build
from tests.certificates import issue
from tests.formats.test_dicom import WHO
from tests.ports import free_port
from tests.waiting import wait_until

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def endpoint(local_ray, home):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDRAY_HOME", str(home))
        with medray.deploy(["ball@champion"], port=free_port(), insecure=True) as running:
            yield running.url


def post(endpoint, body, model="ball@champion", **headers):
    return httpx.post(f"{endpoint}/v1/segment/{model}", content=body, headers=headers, timeout=60)


def test_the_mask_over_http_is_the_python_path_s_byte_for_byte(endpoint, scan, home, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDRAY_HOME", str(home))
    (tmp_path / "scan.nii.gz").write_bytes(write_nifti(scan))
    reply = post(endpoint, write_nifti(scan), accept="application/x-nifti")
    medray.predict("ball@champion", tmp_path / "scan.nii.gz", tmp_path / "mask.nii.gz")
    assert reply.status_code == 200
    assert reply.content == (tmp_path / "mask.nii.gz").read_bytes()
    mask = read_nifti(reply.content)
    assert np.abs(mask.affine - scan.affine).max() < 1e-4
    assert reply.headers["x-medray-model"] == "ball/1"
    assert "network;dur=" in reply.headers["server-timing"]


def test_json_has_volumes_version_and_latencies(endpoint, scan):
    reply = post(endpoint, write_nifti(scan), **{"X-Request-ID": "abc-1"})
    body = reply.json()
    mask = read_nifti(post(endpoint, write_nifti(scan), accept="application/x-nifti").content)
    assert body["model"] == "ball/1"
    assert body["volumes_ml"]["ball"] == pytest.approx((mask.voxels == 1).sum() * 0.01, abs=1e-3)
    assert list(body["latencies"]) == ["wait", "load", "decode", "preprocess", "network", "queue", "postprocess"]
    assert reply.headers["x-request-id"] == "abc-1"


def test_a_zip_of_dicom_gets_the_same_volumes(endpoint, scan):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number, data in enumerate(write_dicom_series(scan, WHO)):
            archive.writestr(f"{number}.dcm", data)
    assert post(endpoint, buffer.getvalue()).json()["volumes_ml"] == post(endpoint, write_nifti(scan)).json()["volumes_ml"]


def nan_image():
    return write_nifti(medray.Volume(np.full((1, 4, 4, 4), np.nan, np.float32), np.eye(4)))


def cut_off():
    noise = np.random.default_rng(0).integers(0, 999, (1, 12, 12, 12)).astype(np.int16)
    return write_nifti(medray.Volume(noise, np.eye(4)))[:1500]


def zero_affine():
    import gzip

    data = bytearray(gzip.decompress(write_nifti(medray.Volume(np.zeros((1, 4, 4, 4), np.int16), np.eye(4)))))
    data[252:254] = bytes(2)
    data[280:328] = bytes(48)
    return bytes(data)


@pytest.mark.parametrize(
    ("body", "status", "title"),
    [
        (b"hello", 415, "unknown-format"),
        (b"", 400, "empty-body"),
        (nan_image(), 400, "non-finite-voxels"),
        (cut_off(), 400, "truncated"),
        (zero_affine(), 400, "bad-affine"),
        (b"PK\x03\x04 no zip", 400, "truncated"),
    ],
    ids=["text", "empty", "nan", "truncated", "zero affine", "bad zip"],
)
def test_bad_bodies_are_problems(endpoint, body, status, title):
    reply = post(endpoint, body)
    problem = reply.json()
    assert (reply.status_code, problem["title"]) == (status, title)
    assert reply.headers["content-type"] == "application/problem+json"
    assert "\n" not in problem["detail"]


def test_many_at_once_are_each_answered_for_themselves(endpoint, scan):
    """Small ones go to the pool together."""
    right, bad = post(endpoint, write_nifti(scan), accept="application/x-nifti").content, cut_off()
    with ThreadPoolExecutor(16) as threads:
        bodies = [bad if number % 5 == 0 else write_nifti(scan) for number in range(40)]
        replies = list(threads.map(lambda body: post(endpoint, body, accept="application/x-nifti"), bodies))
    assert [reply.status_code for reply in replies] == [400 if number % 5 == 0 else 200 for number in range(40)]
    assert all(reply.content == right for reply in replies if reply.status_code == 200)


def test_unknown_models_and_media_types(endpoint, scan):
    assert post(endpoint, b"x", model="none").status_code == 404
    assert post(endpoint, b"x", model="ball/99").status_code == 404
    assert post(endpoint, b"x", accept="text/html").status_code == 406
    for reply in (httpx.get(f"{endpoint}/nowhere"), httpx.get(f"{endpoint}/v1/segment/ball")):
        assert reply.headers["content-type"] == "application/problem+json"
        assert reply.status_code in (404, 405)
    assert post(endpoint, write_nifti(scan), model="ball").status_code == 200
    assert post(endpoint, write_nifti(scan), model="spots").status_code == 404, "only what is named is served"


def test_what_is_served_can_be_asked(endpoint):
    models = httpx.get(f"{endpoint}/v1/models").json()["models"]
    assert [model["model"] for model in models] == ["ball/1"]
    assert httpx.get(f"{endpoint}/v1/models/ball").json()["targets"] == {"ball": 1, "core": 4}
    assert httpx.get(f"{endpoint}/v1/models/none").status_code == 404
    assert httpx.get(f"{endpoint}/healthz").json() == {"status": "ok"}
    assert httpx.get(f"{endpoint}/readyz").json() == {"status": "ready"}
    assert "/v1/segment/{model}" in json.dumps(httpx.get(f"{endpoint}/openapi.json").json())


def test_it_binds_loopback_alone(endpoint):
    port = int(endpoint.rsplit(":", 1)[1])
    bound = {
        item.laddr.ip
        for item in psutil.net_connections("tcp")
        if item.laddr and item.laddr.port == port and item.status == "LISTEN"
    }
    assert bound == {"127.0.0.1"}


def test_a_second_endpoint_at_another_port_is_refused(endpoint, home, monkeypatch):
    monkeypatch.setenv("MEDRAY_HOME", str(home))
    with pytest.raises(ConfigError, match=f"listens at port {endpoint.rsplit(':', 1)[1]} of this cluster already"):
        medray.deploy(["ball"], port=free_port(), insecure=True, cpus=1, min_replicas=0)


def test_unregistered_models_are_refused_before_anything_starts():
    with pytest.raises(NotFoundError, match="no model none"):
        medray.deploy(["none"])


def test_serve_arguments_are_strict():
    with pytest.raises(ConfigError, match="unknown key 'model'"):
        build({"model": ["x"]})


def test_a_killed_proxy_costs_waiting_callers_nothing(endpoint, scan):
    proxies = [child for child in psutil.Process().children(recursive=True) if "ProxyActor" in "".join(child.cmdline()[:1])]
    assert len(proxies) == 1
    proxies[0].kill()
    proxies[0].wait(10)
    port = int(endpoint.rsplit(":", 1)[1])
    wait_until(lambda: any(item.laddr.port == port for item in psutil.Process().net_connections("tcp")))
    with ThreadPoolExecutor(8) as threads:
        assert [reply.status_code for reply in threads.map(lambda _: post(endpoint, write_nifti(scan)), range(8))] == [200] * 8


def test_tls_is_what_it_says_it_is(local_ray, home, scan, tmp_path, monkeypatch, endpoint):
    """Runs last here: Serve has one port, and the other endpoint's is taken from it."""
    monkeypatch.setenv("MEDRAY_HOME", str(home))
    serve.shutdown()
    [server] = issue(tmp_path / "tls", "server")
    files = {"certificate": str(server.certificate), "private_key": str(server.key)}
    with medray.deploy(["ball"], port=free_port(), insecure=True, **files) as running:
        assert running.url.startswith("https://")
        trusted = ssl.create_default_context(cafile=str(server.authority))
        reply = httpx.post(f"{running.url}/v1/segment/ball", content=write_nifti(scan), verify=trusted, timeout=60)
        assert reply.status_code == 200
        assert "max-age" in reply.headers["strict-transport-security"]
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(f"{running.url}/healthz")
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"{running.url.replace('https', 'http')}/healthz")
