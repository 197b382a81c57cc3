"""Serve's HAProxy mode, which is for a whole process: one of its own."""

import json
import os
import subprocess
import sys

import pytest

from medray.formats.nifti import write_nifti
from tests.ports import free_port

SERVED = """
import json, sys
import httpx, psutil, ray, medray
port, body, told = int(sys.argv[1]), open(sys.argv[2], "rb").read(), open(sys.argv[3], "w")
ray.init(address="local", num_cpus=2, log_to_driver=False, logging_level="ERROR", object_store_memory=300 << 20)
with medray.deploy(["ball@champion"], port=port, insecure=True, runtime="openvino") as endpoint:
    replies = [
        httpx.post(f"{endpoint.url}/v1/segment/{model}", content=content, timeout=60)
        for model, content in (("ball", body), ("ball", b"hello"), ("none", body))
    ]
    mine = psutil.Process().children(recursive=True)
    proxies = [child for child in mine if child.name() == "haproxy"]
    listening = [item.laddr for child in mine for item in child.net_connections("tcp") if item.status == "LISTEN"]
    told.write(json.dumps({
        "statuses": [reply.status_code for reply in replies],
        "volumes": replies[0].json()["volumes_ml"],
        "headers": dict(replies[0].headers),
        "bound": sorted({at.ip for at in listening if at.port == port}),
        "proxies": len(proxies),
    }))
ray.shutdown()
for proxy in proxies:  # they outlive Serve
    if proxy.is_running():
        proxy.kill()
"""


@pytest.mark.ray
@pytest.mark.slow
def test_requests_go_straight_to_the_gateway(home, scan, tmp_path):
    (tmp_path / "scan.nii.gz").write_bytes(write_nifti(scan))
    ports = {f"RAY_SERVE_HAPROXY_{name}_PORT": str(free_port()) for name in ("METRICS", "STATS")}
    mode = {"RAY_SERVE_ENABLE_HA_PROXY": "1", **ports, "MEDRAY_HOME": str(home), "RAY_AUTH_MODE": "disabled"}
    words = [sys.executable, "-c", SERVED, str(free_port()), str(tmp_path / "scan.nii.gz"), str(tmp_path / "told.json")]
    run = subprocess.run(words, capture_output=True, text=True, timeout=180, env={**os.environ, **mode}, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    said = json.loads((tmp_path / "told.json").read_text())
    assert said["statuses"] == [200, 415, 404]
    assert said["bound"] == ["127.0.0.1"]
    assert said["proxies"] == 1
    assert sum(said["volumes"].values()) > 0
    assert said["headers"]["cache-control"] == "no-store"
    assert "server-timing" in said["headers"]
