"""What is too large, too much or too many: refused in time, and nothing else suffers."""

import os
import socket

import numpy as np
import pytest

import medray
from medray.imaging.volume import Volume
from tests.ports import free_port
from tests.serving.test_pool import ask
from tests.waiting import wait_until

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def tight(local_ray, home):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDRAY_HOME", str(home))
        with medray.deploy(["ball/1"], port=free_port(), insecure=True, work_mb=8, max_body_mb=2, bodies_mb=3) as running:
            yield running.url


def test_small_as_bytes_and_large_as_voxels(tight):
    reply = ask(tight, Volume(np.zeros((1, 160, 160, 160), np.int16), np.eye(4)))
    assert (reply.status_code, reply.json()["title"]) == (413, "too-large")


def test_a_map_too_large(tight):
    """As an image it would fit; a plan of finer voxels makes a map of it that doesn't."""
    reply = ask(tight, Volume(np.ones((1, 64, 64, 64), np.int16), np.diag([4.0, 4.0, 4.0, 1.0])))
    assert (reply.status_code, reply.json()["title"]) == (413, "too-large")


def test_a_large_body(tight):
    reply = ask(tight, os.urandom(3 << 20))
    assert (reply.status_code, reply.json()["title"]) == (413, "too-large")


def test_too_many_at_a_time_are_told_to_come_again(tight, scan):
    port = int(tight.rsplit(":", 1)[1])
    slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(2)]
    for connection in slow:
        connection.sendall(b"POST /v1/segment/ball HTTP/1.1\r\nHost: x\r\nContent-Length: 1572864\r\n\r\n" + bytes(9))
    wait_until(lambda: ask(tight, scan).status_code == 503)
    assert ask(tight, scan).headers["retry-after"]
    for connection in slow:
        connection.close()
    wait_until(lambda: ask(tight, scan).status_code == 200)
