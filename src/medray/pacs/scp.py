"""A C-STORE SCP (PS3.4 Annex B, PS3.7 9.1.1): an object is acknowledged when it is in the spool, and not before."""

from __future__ import annotations

import os
import ssl
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pydicom.uid import AllTransferSyntaxes
from pynetdicom import AE, AllStoragePresentationContexts, evt, transport
from pynetdicom.sop_class import Verification

from medray.errors import ImageError, StorageError
from medray.formats.dicom_header import DicomHeader
from medray.pacs.pieces import write_pieces_into
from medray.pacs.spool import Spool
from medray.pacs.tls import Tls

__all__ = ["Arrival", "Listening", "StoreScp", "Witness"]

SUCCESS, OUT_OF_RESOURCES, CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xC000
MAX_PDU_BYTES = 128 << 10
MAX_RECEIVED_PDU_BYTES = 1 << 20
"""What a peer announces above this is not allocated: the announced maximum binds nobody."""
IDLE_S, GRACE_S = 30.0, 10.0


@dataclass(frozen=True, slots=True)
class Listening:
    """How to listen.

    Attributes:
        aet: Own application entity title; a caller must use it.
        host: Address to bind.
        port: 0 for any free one.
        callers: Titles that may call; empty for all.
        tls: None for plain text.
        associations: How many at a time.
    """

    aet: str
    host: str = "127.0.0.1"
    port: int = 0
    callers: tuple[str, ...] = ()
    tls: Tls | None = None
    associations: int = 10


@dataclass(frozen=True, slots=True)
class Arrival:
    """What one association brought.

    Attributes:
        caller: Calling title and address.
        series: Series (by its header) to how many new objects.
        refused: Reasons to how many.
    """

    caller: str
    series: tuple[tuple[DicomHeader, int], ...]
    refused: tuple[tuple[str, int], ...]


class Witness(Protocol):
    """Is told what arrives. What it can't take note of is refused: it raises `StorageError` then."""

    def begins(self, caller: str, header: DicomHeader) -> None:
        """Hear of a series before the first object of it that an association brings is in the spool."""
        ...

    def ends(self, arrival: Arrival) -> None:
        """Hear what an association has brought."""
        ...


class StoreScp:
    """Runs until `stop`.

    Args:
        spool: Where objects go.
        listening: How to listen.
        witness: Is told of every series.
    """

    def __init__(self, spool: Spool, listening: Listening, witness: Witness) -> None:
        self._spool = spool
        self._witness = witness
        self._stopping = False
        self._brought: dict[Any, tuple[dict[str, DicomHeader], Counter[str], Counter[str]]] = {}
        write_pieces_into(spool.incoming)
        transport.AssociationSocket.recv = _bounded_recv
        self._entity = AE(listening.aet)
        self._entity.maximum_pdu_size = MAX_PDU_BYTES
        self._entity.maximum_associations = listening.associations
        self._entity.network_timeout = self._entity.dimse_timeout = IDLE_S
        self._entity.acse_timeout = GRACE_S
        self._entity.require_called_aet = True
        self._entity.require_calling_aet = list(listening.callers)
        # The acceptor takes the first syntax of its own list that the caller proposes; a caller sends what it has.
        for context in AllStoragePresentationContexts:
            self._entity.add_supported_context(context.abstract_syntax or "", AllTransferSyntaxes)
        self._entity.add_supported_context(Verification)
        handlers: Sequence[Any] = [
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_C_ECHO, lambda _: SUCCESS),
            (evt.EVT_CONN_OPEN, _limit_waiting),
            (evt.EVT_CONN_CLOSE, self._closed),
        ]
        self._server = self._entity.start_server(
            (listening.host, listening.port),
            block=False,
            evt_handlers=list(handlers),
            ssl_context=_context(listening.tls) if listening.tls else None,
        )
        self.port = int(self._server.server_address[1])

    def stop(self) -> None:
        """Take no new association, refuse further objects, let callers end, then abort what is left."""
        associations = list(self._server.active_associations)
        self._server.shutdown()
        self._stopping = True
        deadline = time.monotonic() + GRACE_S
        for association in associations:
            association.join(max(0.0, deadline - time.monotonic()))
            if association.is_alive():
                association.abort()

    def _store(self, event: Any) -> int:
        headers, counts, refused = self._counts(event.assoc)

        def announce(header: DicomHeader) -> None:
            if header.series not in headers:
                self._witness.begins(_caller(event.assoc), header)
                headers[header.series] = header

        if self._stopping or not self._spool.has_room():
            refused["no-room"] += 1
            return OUT_OF_RESOURCES
        path = Path(event.dataset_path)
        try:
            received = self._spool.accept(path, announce)
        except ImageError as error:
            refused[error.reason] += 1
            return CANNOT_UNDERSTAND
        except StorageError:
            refused["no-room"] += 1
            return OUT_OF_RESOURCES
        finally:
            path.unlink(missing_ok=True)
        counts[received.header.series] += int(received.new)
        return SUCCESS

    def _counts(self, association: Any) -> tuple[dict[str, DicomHeader], Counter[str], Counter[str]]:
        return self._brought.setdefault(association, ({}, Counter(), Counter()))

    def _closed(self, event: Any) -> None:
        _delete_half_written(event.assoc)
        found = self._brought.pop(event.assoc, None)
        if found is None:
            return
        headers, counts, refused = found
        series = tuple((headers[uid], counts[uid]) for uid in headers)
        self._witness.ends(Arrival(_caller(event.assoc), series, tuple(refused.items())))


def _caller(association: Any) -> str:
    return f"{association.requestor.ae_title}@{association.requestor.address}"


def _delete_half_written(association: Any) -> None:
    """Delete the file of an object whose sender went away in the middle of it."""
    stream = getattr(association.dimse.message, "_data_set_file", None)
    if stream is not None:
        stream.close()
        Path(stream.name).unlink(missing_ok=True)


def _limit_waiting(event: Any) -> None:
    """Give an accepted socket a time limit: without, a peer that stalls in the middle of a PDU would hold its slot."""
    event.assoc.dul.socket.socket.settimeout(IDLE_S)


_recv = transport.AssociationSocket.recv


def _bounded_recv(self: Any, size: int) -> bytearray:
    if size > MAX_RECEIVED_PDU_BYTES:
        raise OSError(os.strerror(90))  # "message too long": the association ends
    received: bytearray = _recv(self, size)
    return received


class _PatientTls(ssl.SSLContext):
    """Leaves the handshake to the association's own thread: in the accept loop, one silent caller would block all others."""

    def wrap_socket(self, sock: Any, server_side: bool = False, **options: Any) -> ssl.SSLSocket:  # type: ignore[override]
        if server_side:
            sock.settimeout(GRACE_S)
        return super().wrap_socket(sock, server_side=server_side, do_handshake_on_connect=not server_side, **options)


def _context(tls: Tls) -> ssl.SSLContext:
    context = _PatientTls(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(tls.certificate, tls.key)
    if tls.authority is not None:
        context.load_verify_locations(tls.authority)
        context.verify_mode = ssl.CERT_REQUIRED
    return context
