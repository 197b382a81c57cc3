"""STOW-RS (PS3.18 10.5): `POST /studies` into the spool, answered when every object is on the disk."""

from __future__ import annotations

import hmac
import ssl
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from medray.errors import ImageError, StorageError
from medray.formats.dicom_header import DicomHeader, read_dicom_file_header
from medray.pacs.multipart import PartWriter, boundary_of
from medray.pacs.scp import Arrival, Witness
from medray.pacs.spool import Spool
from medray.pacs.tls import Tls

__all__ = ["StowServer", "stow_app", "take_in"]

DICOM_JSON = "application/dicom+json"
OUT_OF_RESOURCES, CANNOT_UNDERSTAND, WRONG_STUDY = 0xA700, 0xC000, 0x0110
"""Failure reasons of PS3.18 Annex I."""


def stow_app(spool: Spool, witness: Witness, *, token: str = "") -> Starlette:
    """Return the application.

    Args:
        spool: Where objects go.
        witness: Is told of every series.
        token: Bearer token that a caller must show; empty for none.
    """

    async def store(request: Request) -> Response:
        given = request.headers.get("authorization", "").encode("latin-1", "replace")
        if token and not hmac.compare_digest(given, f"Bearer {token}".encode()):
            return Response(status_code=401, headers={"WWW-Authenticate": "Bearer"})
        return await take_in(request, spool, witness)

    return Starlette(
        routes=[
            Route("/studies", store, methods=["POST"]),
            Route("/studies/{study}", store, methods=["POST"]),
        ]
    )


async def take_in(request: Request, spool: Spool, witness: Witness) -> Response:
    """Take the objects of one request into a spool; answers when every one is on the disk.

    Args:
        request: `POST /studies` or `/studies/{study}`.
        spool: Where objects go.
        witness: Is told of every series.
    """
    if not spool.has_room():
        return Response(status_code=503, headers={"Retry-After": "300"})
    caller = f"stow@{request.client.host if request.client else ''}"
    taken = _Taken(spool, request.path_params.get("study", ""), partial(witness.begins, caller))
    try:
        writer = PartWriter(boundary_of(request.headers.get("content-type", "")), spool.new_file, taken.part)
    except ImageError:
        return Response(status_code=415)
    try:
        async for piece in request.stream():
            if not spool.has_room():
                raise OSError("no room")
            await run_in_threadpool(writer.feed, piece)
        writer.close()
    except ClientDisconnect:
        writer.discard()
    except ImageError:
        taken.failed.append((None, CANNOT_UNDERSTAND))
    except OSError:
        writer.discard()
        taken.failed.append((None, OUT_OF_RESOURCES))
    witness.ends(taken.arrival(caller))
    body, status = taken.answer(str(request.base_url).rstrip("/"))
    return JSONResponse(body, status, media_type=DICOM_JSON)


class StowServer:
    """The application behind uvicorn, in a thread of its own.

    Args:
        app: See `stow_app`.
        host: Address to bind.
        port: 0 for any free one.
        tls: None for plain text.
    """

    def __init__(self, app: Starlette, *, host: str = "127.0.0.1", port: int = 0, tls: Tls | None = None) -> None:
        options: dict[str, Any] = {"host": host, "port": port, "log_level": "critical", "access_log": False}
        if tls is not None:
            options |= {"ssl_certfile": tls.certificate, "ssl_keyfile": tls.key, "ssl_ca_certs": tls.authority}
            options["ssl_cert_reqs"] = ssl.CERT_REQUIRED if tls.authority else ssl.CERT_NONE
        self._server = uvicorn.Server(uvicorn.Config(app, **options))
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            time.sleep(0.01)
        if not self._server.started:
            raise StorageError(f"STOW-RS can't listen on {host}:{port}: is the port taken?")
        self.port = int(self._server.servers[0].sockets[0].getsockname()[1])

    def stop(self) -> None:
        """Finish what is under way and end."""
        self._server.should_exit = True
        self._thread.join(30)


class _Taken:
    """What one request brought."""

    def __init__(self, spool: Spool, study: str, begins: Callable[[DicomHeader], None]) -> None:
        self._spool = spool
        self._study = study
        self._begins = begins
        self._begun: set[str] = set()
        self.stored: list[tuple[DicomHeader, bool]] = []
        self.failed: list[tuple[DicomHeader | None, int]] = []

    def part(self, path: Path) -> None:
        try:
            if self._study:
                header = read_dicom_file_header(path.read_bytes())
                if header.study != self._study:
                    self.failed.append((header, WRONG_STUDY))
                    return
            received = self._spool.accept(path, self._announce)
            self.stored.append((received.header, received.new))
        except ImageError:
            self.failed.append((None, CANNOT_UNDERSTAND))
        except StorageError:
            self.failed.append((None, OUT_OF_RESOURCES))
        finally:
            path.unlink(missing_ok=True)

    def _announce(self, header: DicomHeader) -> None:
        if header.series not in self._begun:
            self._begins(header)
            self._begun.add(header.series)

    def arrival(self, caller: str) -> Arrival:
        headers = {header.series: header for header, _ in self.stored}
        counts = {series: sum(new for header, new in self.stored if header.series == series) for series in headers}
        refused = (("refused", len(self.failed)),) if self.failed else ()
        return Arrival(caller, tuple((headers[series], counts[series]) for series in headers), refused)

    def answer(self, base: str) -> tuple[dict[str, Any], int]:
        """Return the Store Instances Response (PS3.18 I.2) and the status (10.5.3)."""
        studies = {header.study for header, _ in self.stored}
        body: dict[str, Any] = {"00081190": {"vr": "UR"}}
        if len(studies) == 1:
            body["00081190"]["Value"] = [f"{base}/studies/{next(iter(studies))}"]
        if self.stored:
            body["00081199"] = {"vr": "SQ", "Value": [_reference(header) for header, _ in self.stored]}
        if self.failed:
            body["00081198"] = {
                "vr": "SQ",
                "Value": [
                    {**_reference(header), "00081197": {"vr": "US", "Value": [reason]}} for header, reason in self.failed
                ],
            }
        if self.stored:
            return body, 202 if self.failed else 200
        return body, 409 if self.failed else 400


def _reference(header: DicomHeader | None) -> dict[str, Any]:
    if header is None:
        return {"00081150": {"vr": "UI"}, "00081155": {"vr": "UI"}}
    return {
        "00081150": {"vr": "UI", "Value": [header.sop_class]},
        "00081155": {"vr": "UI", "Value": [header.instance]},
    }
