"""Callers wait while Serve's HTTP proxy starts again: a node has one, and without it nobody would take their connections."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Self

__all__ = ["StandIn"]

PATIENCE_S = 60.0
"""For which callers are kept: by its own checks Serve needs half of it. Then they are told to come again."""
PAUSE_S, PROBE_S, AWAY_S = 0.05, 2.0, 1.0
"""Between two looks whether there is a proxy, for how long one may take, and between two once patience has ended."""
HEARS_S = 2.0
"""For which a caller who is refused may go on sending."""
MOST_KEPT = 1024
"""Callers at a time."""
READY = b"GET /healthz HTTP/1.0\r\n\r\n"
BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nRetry-After: 5\r\n"
    b"Connection: close\r\nContent-Length: %d\r\n\r\n%s"
)
TITLE = b'{"title": "The endpoint is starting again: come back in a few seconds", "status": 503}'

Caller = tuple[asyncio.StreamReader, asyncio.StreamWriter]

logger = logging.getLogger(__name__)


class StandIn:
    """Watches Serve's proxy and, when it dies, takes connections at its port until there is another, which then gets them.

    It holds a connection to the proxy: the kernel ends that when the proxy's process ends, however it ends. Bytes are
    passed on as they come, TLS among them. A request that the proxy had when it died is lost.

    Args:
        host: Where the proxy listens, by a name or an address of this machine.
        port: Of the proxy, which shares it with others of its user (``SO_REUSEPORT``).
        tls: Whether it speaks TLS.
    """

    def __init__(self, host: str, port: int, *, tls: bool = False) -> None:
        self._host, self._port = host, port
        self._family = socket.AF_INET6 if ":" in host else socket.AF_INET  # as Ray's proxy takes a host
        near = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
        self._at = (str(socket.getaddrinfo(near, port, self._family, socket.SOCK_STREAM)[0][4][0]), port)
        self._tls = _unverified() if tls else None
        self._kept: list[Caller] | None = None
        self._own: set[int] = set()
        self._passing: set[asyncio.Task[None]] = set()
        self._ends = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="medray-stand-in", daemon=True)

    def start(self) -> Self:
        """Begin to watch a proxy that listens; where none does on this machine, there is nothing to stand in for."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """End, with all that is passed on."""
        with suppress(RuntimeError):  # its loop has ended before
            self._loop.call_soon_threadsafe(self._ends.set)
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._until_stopped())

    async def _until_stopped(self) -> None:
        watching, ends = asyncio.create_task(self._watch()), asyncio.create_task(self._ends.wait())
        await asyncio.wait((watching, ends), return_when=asyncio.FIRST_COMPLETED)  # the runner cancels what is left

    async def _watch(self) -> None:
        seen = stood_in = False
        while True:
            if await self._accompany():
                seen, stood_in = True, False
            elif not seen:
                return
            elif not stood_in:
                await self._stand_in()
                stood_in = True
            else:
                await asyncio.sleep(AWAY_S)

    async def _accompany(self) -> bool:
        """Stay connected to the proxy as long as it lets one; tell whether it was there."""
        try:
            reader, writer = await asyncio.open_connection(*self._at)
        except OSError:
            return False
        since = self._loop.time()
        with suppress(OSError):
            await reader.read()
        writer.close()
        if self._loop.time() - since < PAUSE_S:
            await asyncio.sleep(PAUSE_S)
        return True

    async def _stand_in(self) -> None:
        """Keep callers until a proxy is ready, and pass them on; tell them to come again where none comes."""
        self._kept = []
        try:
            server = await asyncio.start_server(self._meet, sock=self._listener(), backlog=MOST_KEPT)
        except OSError as error:
            logger.warning(
                "nobody takes connections until Serve's proxy is back: port %d isn't to be had: %s", self._port, error
            )
            return
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not await self._is_ready():
                    await asyncio.sleep(PAUSE_S)
        except BaseException as ended:
            for caller in self._kept:
                self._refuse(caller)
            self._kept = []
            if not isinstance(ended, TimeoutError):
                raise
        finally:
            server.close()
            kept, self._kept = self._kept, None
        for caller in kept:
            self._begin(self._connect(*caller))

    def _listener(self) -> socket.socket:
        """Take the port as the proxy does, by both of the Internet's protocols where it does."""
        both = self._host == "::" and socket.has_dualstack_ipv6()
        where = (self._host, self._port)
        return socket.create_server(where, family=self._family, reuse_port=True, dualstack_ipv6=both)

    def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Keep a caller, unless it is this object itself that looked for a proxy."""
        if writer.get_extra_info("peername")[1] in self._own:
            writer.close()
        elif self._kept is None:  # taken while the port was given back
            self._begin(self._connect(reader, writer))
        elif len(self._kept) < MOST_KEPT:
            self._kept.append((reader, writer))
        else:
            self._refuse((reader, writer))

    async def _is_ready(self) -> bool:
        """Tell whether a proxy at the port knows its routes; the kernel may lead there or back to this object."""
        probe: socket.socket | None = None
        writer: asyncio.StreamWriter | None = None
        own = 0
        try:
            async with asyncio.timeout(PROBE_S):
                probe = socket.socket(self._family, socket.SOCK_STREAM)
                probe.setblocking(False)
                probe.bind((self._at[0], 0))
                own = probe.getsockname()[1]
                self._own.add(own)
                await self._loop.sock_connect(probe, self._at)
                name = "" if self._tls else None
                reader, writer = await asyncio.open_connection(sock=probe, ssl=self._tls, server_hostname=name)
                writer.write(READY)
                return b" 200 " in await reader.readline()
        except (OSError, TimeoutError, ValueError):
            return False
        finally:
            self._own.discard(own)
            if writer:  # it has the socket; TLS would wait for the other side's farewell
                writer.transport.abort()
            elif probe:
                probe.close()

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._passing.add(task)
        task.add_done_callback(self._passing.discard)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass bytes between a caller and the proxy, until the proxy ends it."""
        try:
            replies, onward = await asyncio.open_connection(*self._at)
        except OSError:
            self._refuse((reader, writer))
            return
        asking = asyncio.create_task(_pump(reader, onward))
        try:
            await _pump(replies, writer)
        finally:
            asking.cancel()
            onward.close()
            writer.close()

    def _refuse(self, caller: Caller) -> None:
        """Tell a caller to come again."""
        _, writer = caller
        if self._tls:  # who waits for a handshake can't be told
            writer.close()
            return
        writer.write(BUSY % (len(TITLE), TITLE))
        self._begin(_hear_out(*caller))


async def _hear_out(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read on for a moment: closing on what is unread would reset the connection, and the answer with it."""
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(HEARS_S):
            writer.write_eof()
            while await reader.read(1 << 16):
                pass
    writer.close()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Pass bytes one way until they end."""
    try:
        while piece := await source.read(1 << 16):
            sink.write(piece)
            await sink.drain()
        sink.write_eof()
    except OSError:  # one side is gone: the other is to know, and not to wait for what never comes
        sink.close()


def _unverified() -> ssl.SSLContext:
    """Make a context for asking oneself whether one is ready: nothing is told, and the answer isn't trusted with anything."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
