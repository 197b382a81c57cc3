"""A proxy that gets in the way, in front of a real server."""

import contextlib
import socket
import threading
from dataclasses import dataclass, field

SLOW_DOWN = (
    b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nConnection: close\r\nContent-Length: 95\r\n\r\n"
    b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>         "
)


@dataclass
class Proxy:
    """What it did so far."""

    port: int
    refusals: int
    refused: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextlib.contextmanager
def throttling_proxy(target, *, refusals):
    """Answer the first ``refusals`` connections with 503 SlowDown, and pass on the others."""
    listener = socket.create_server(("127.0.0.1", 0))
    proxy = Proxy(listener.getsockname()[1], refusals)

    def handle(client):
        with proxy.lock:
            refuse = proxy.refused < proxy.refusals
            proxy.refused += refuse
        if refuse:
            client.recv(65536)
            client.sendall(SLOW_DOWN)
            client.shutdown(socket.SHUT_WR)
            while client.recv(65536):
                pass
            client.close()
            return
        server = socket.create_connection(("127.0.0.1", target))
        for source, sink in ((client, server), (server, client)):
            threading.Thread(target=pump, args=(source, sink), daemon=True).start()

    with taking(listener, handle):
        yield proxy


@contextlib.contextmanager
def losing_proxy(target, *, losses, begins=b"POST"):
    """Pass everything on, but lose the replies to the first ``losses`` requests that begin so: the server has done its work."""
    listener = socket.create_server(("127.0.0.1", 0))
    proxy = Proxy(listener.getsockname()[1], losses)

    def handle(client):
        server = socket.create_connection(("127.0.0.1", target))
        first = client.recv(65536)
        server.sendall(first)
        threading.Thread(target=pump, args=(client, server), daemon=True).start()
        with proxy.lock:
            lose = first.startswith(begins) and proxy.refused < proxy.refusals
            proxy.refused += lose
        if lose:
            server.recv(65536)
            client.shutdown(socket.SHUT_RDWR)
            client.close()
        else:
            pump(server, client)

    with taking(listener, handle):
        yield proxy


@contextlib.contextmanager
def taking(listener, handle):
    """Give each connection to a thread of its own until the block ends."""

    def serve():
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=handle, args=(client,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield
    finally:
        listener.close()


def pump(source, sink):
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
