"""Callers of a server whose process is killed and started again: a real one, with Serve's way to share a port."""

import contextlib
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest

from medray.serving import standin
from medray.serving.standin import StandIn
from tests.certificates import issue
from tests.ports import free_port
from tests.waiting import wait_until

SERVER = """
import http.server, socket, ssl, sys, time

class Server(http.server.ThreadingHTTPServer):
    allow_reuse_port = True
    request_queue_size = 64

class Answers(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if self.path == "/slow":
            time.sleep(60)
        body = self.path.encode()
        known = time.monotonic() - started > float(sys.argv[2])
        self.send_response(200 if known else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[::-1])
    def log_message(self, *words):
        pass

started = time.monotonic()
host = sys.argv[3]
Server.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
server = Server((host, int(sys.argv[1])), Answers)
if len(sys.argv) > 4:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[4], sys.argv[5])
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
server.serve_forever()
"""


class Proxy:
    """A server of one port that can die."""

    def __init__(self, *tls, host="127.0.0.1"):
        self.port, self.tls, self.host = free_port(), tls, host
        self.start()

    def start(self, learns_s=0.0):
        words = [sys.executable, "-c", SERVER, str(self.port), str(learns_s), self.host, *self.tls]
        self.process = subprocess.Popen(words)

    def start_later(self, seconds):
        threading.Timer(seconds, self.start).start()

    def is_there(self):
        with contextlib.suppress(httpx.TransportError):
            scheme = "https" if self.tls else "http"
            url = f"{scheme}://127.0.0.1:{self.port}/healthz"
            return httpx.get(url, verify=False, timeout=5).status_code == 200
        return False

    def kill(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture
def proxy():
    made = Proxy()
    wait_until(made.is_there)
    yield made
    made.kill()


@pytest.fixture
def stand_in(proxy):
    made = StandIn("127.0.0.1", proxy.port).start()
    wait_until(lambda: connections(proxy))
    yield made
    made.stop()


def connections(proxy):
    """Of the stand-in to the server, by the server's end."""
    found = psutil.Process(proxy.process.pid).net_connections("tcp")
    return [item for item in found if item.status == psutil.CONN_ESTABLISHED]


def listens(port):
    return any(item.laddr.port == port and item.status == "LISTEN" for item in psutil.Process().net_connections("tcp"))


def test_callers_wait_for_the_next_proxy_and_get_their_answers(proxy, stand_in):
    proxy.kill()
    wait_until(lambda: listens(proxy.port))
    large = bytes(range(256)) * 8192
    with ThreadPoolExecutor(40) as threads:
        got = [threads.submit(httpx.get, f"http://127.0.0.1:{proxy.port}/{number}", timeout=30) for number in range(39)]
        sent = threads.submit(httpx.post, f"http://127.0.0.1:{proxy.port}/", content=large, timeout=30)
        proxy.start_later(0.5)
        assert [reply.result().text for reply in got] == [f"/{number}" for number in range(39)]
        assert sent.result().content == large[::-1]
    wait_until(lambda: not listens(proxy.port))


def test_callers_of_a_proxy_that_does_not_know_its_routes_yet_wait(proxy, stand_in):
    proxy.kill()
    wait_until(lambda: listens(proxy.port))
    with httpx.Client(timeout=30) as client, ThreadPoolExecutor(1) as threads:
        reply = threads.submit(client.get, f"http://127.0.0.1:{proxy.port}/kept")
        time.sleep(0.2)  # it is connected before there is anybody else to connect to
        proxy.start(learns_s=1.5)
        assert reply.result().status_code == 200


def test_it_stands_in_again_and_again(proxy, stand_in):
    for _ in range(3):
        proxy.kill()
        wait_until(lambda: listens(proxy.port))
        proxy.start_later(0.1)
        assert httpx.get(f"http://127.0.0.1:{proxy.port}/x", timeout=30).text == "/x"
        wait_until(lambda: not listens(proxy.port) and connections(proxy))


def test_callers_are_told_to_come_again_where_none_comes(proxy, stand_in, monkeypatch):
    monkeypatch.setattr(standin, "PATIENCE_S", 0.5)
    monkeypatch.setattr(standin, "AWAY_S", 0.05)
    proxy.kill()
    wait_until(lambda: listens(proxy.port))
    reply = httpx.get(f"http://127.0.0.1:{proxy.port}/x", timeout=30)
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "5")
    assert reply.json()["status"] == 503
    wait_until(lambda: not listens(proxy.port))
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{proxy.port}/x")
    proxy.start()  # whoever comes late is watched, too
    wait_until(lambda: connections(proxy))
    proxy.kill()
    wait_until(lambda: listens(proxy.port))


def test_more_callers_than_it_keeps_are_told_to_come_again(proxy, stand_in, monkeypatch):
    monkeypatch.setattr(standin, "MOST_KEPT", 2)
    proxy.kill()
    wait_until(lambda: listens(proxy.port))
    with ThreadPoolExecutor(5) as threads:
        asked = [threads.submit(httpx.get, f"http://127.0.0.1:{proxy.port}/x", timeout=30) for _ in range(5)]
        wait_until(lambda: sum(one.done() for one in asked) == 3)
        proxy.start()
        assert sorted(one.result().status_code for one in asked) == [200, 200, 503, 503, 503]


def test_a_caller_who_goes_away_in_the_middle_leaves_nothing_behind(proxy, stand_in):
    proxy.kill()
    wait_until(lambda: listens(proxy.port))
    caller = socket.create_connection(("127.0.0.1", proxy.port))
    caller.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" + bytes(1000))
    proxy.start()
    wait_until(lambda: proxy.is_there() and not listens(proxy.port) and len(connections(proxy)) == 2)
    caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, and no farewell
    caller.close()
    wait_until(lambda: len(connections(proxy)) == 1)


def test_tls_passes_through(tmp_path):
    [server] = issue(tmp_path / "tls", "server")
    proxy = Proxy(str(server.certificate), str(server.key))
    wait_until(proxy.is_there)
    stand_in = StandIn("127.0.0.1", proxy.port, tls=True).start()
    try:
        wait_until(lambda: connections(proxy))
        proxy.kill()
        wait_until(lambda: listens(proxy.port))
        proxy.start_later(0.3)
        trusted = ssl.create_default_context(cafile=str(server.authority))
        assert httpx.get(f"https://127.0.0.1:{proxy.port}/x", verify=trusted, timeout=30).text == "/x"
    finally:
        stand_in.stop()
        proxy.kill()


@pytest.mark.parametrize("host", ["localhost", "0.0.0.0", "::"])
def test_hosts_by_name_and_by_either_protocol(host):
    proxy = Proxy(host=host)
    wait_until(proxy.is_there)
    stand_in = StandIn(host, proxy.port).start()
    try:
        wait_until(lambda: connections(proxy))
        proxy.kill()
        wait_until(lambda: listens(proxy.port))
        proxy.start_later(0.3)
        near = ["127.0.0.1", "[::1]"] if host == "::" else ["127.0.0.1"]
        with ThreadPoolExecutor(2) as threads:
            asked = [threads.submit(httpx.get, f"http://{at}:{proxy.port}/x", timeout=30) for at in near]
            assert [reply.result().text for reply in asked] == ["/x"] * len(near)
    finally:
        stand_in.stop()
        proxy.kill()


def test_who_sends_much_is_refused_and_not_cut_off(proxy, stand_in, monkeypatch):
    monkeypatch.setattr(standin, "MOST_KEPT", 1)
    proxy.kill()
    wait_until(lambda: listens(proxy.port))
    with socket.create_connection(("127.0.0.1", proxy.port)):
        reply = httpx.post(f"http://127.0.0.1:{proxy.port}/x", content=bytes(1 << 24), timeout=30)
    assert reply.status_code == 503


def test_nothing_is_watched_where_nobody_listens():
    port = free_port()
    stand_in = StandIn("127.0.0.1", port).start()
    stand_in._thread.join(10)
    assert not stand_in._thread.is_alive()
    stand_in.stop()


def test_it_ends_with_those_it_keeps(proxy, stand_in):
    proxy.kill()
    wait_until(lambda: listens(proxy.port))
    with ThreadPoolExecutor(1) as threads:
        reply = threads.submit(httpx.get, f"http://127.0.0.1:{proxy.port}/x", timeout=30)
        time.sleep(0.2)
        stand_in.stop()
        assert reply.result().status_code == 503
    assert not listens(proxy.port)
