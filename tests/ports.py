"""Free TCP ports for servers that tests start."""

import os
import random
import socket

FIRST, LAST = 20_000, 32_000
"""Above those of Ray's workers (to 19999), below those that the system gives to whoever connects (from 32768)."""


def free_port():
    """Return a port that nobody listens on, another one each time, and another one in each of pytest's processes."""
    while True:
        port = next(_ports)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                continue
        return port


def _own_ports():
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    mine = range(FIRST + worker % 4, LAST, 4)
    start = random.randrange(len(mine))
    while True:
        yield mine[start % len(mine)]
        start += 1


_ports = _own_ports()
