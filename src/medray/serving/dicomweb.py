"""DICOMweb: STOW-RS in, for models that rules choose; QIDO-RS and WADO-RS through to the PACS; what became of what came in."""

import asyncio
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from starlette.responses import StreamingResponse

from medray.errors import NotFoundError, StorageError
from medray.serving.auth import Role
from medray.serving.desk import Desk
from medray.serving.guard import Guard
from medray.serving.orders import OrderBook
from medray.serving.v1 import ANSWERS, REFUSALS

if TYPE_CHECKING:
    from medray.formats.dicom_header import DicomHeader
    from medray.pacs.dicomweb import DicomwebPacs
    from medray.pacs.scp import Arrival
    from medray.pacs.spool import Spool

__all__ = ["dicomweb"]

RESOURCE = re.compile(r"(studies|series|instances)(/[A-Za-z0-9][A-Za-z0-9.,-]*)*/?")
"""What QIDO-RS and WADO-RS ask for (PS3.18 10.4, 10.6)."""
PASSED = ("accept", "accept-encoding", "content-type", "range")
KEPT = ("content-type", "content-encoding", "warning", "content-range")
CHUNK = 1 << 18
_waiting = ThreadPoolExecutor(16, thread_name_prefix="pacs")
"""For requests to the PACS: however slow it is, audit events and leases don't wait for a thread."""
DICOM = {"multipart/related": {"schema": {"type": "string", "format": "binary"}}}
ANY: dict[int | str, dict[str, Any]] = {200: {"description": "As the PACS says.", "content": {"application/dicom+json": {}}}}


class Quiet:
    """A witness to arrivals that has nothing to add to the endpoint's own trail."""

    def begins(self, caller: str, header: "DicomHeader") -> None:
        """See `Witness`."""

    def ends(self, arrival: "Arrival") -> None:
        """See `Witness`."""


def dicomweb(desk: Desk, guard: Guard, spool: "Spool | None", book: OrderBook, pacs: "DicomwebPacs | None") -> APIRouter:
    """Make the routes.

    Args:
        desk: Receives bodies.
        guard: Who asks.
        spool: Where series come in; None where no rules say what to do with them.
        book: The orders.
        pacs: What is asked through; None where there is none.
    """
    routes = APIRouter(tags=["DICOMweb"])
    seeing, asking, operating = (Depends(guard.needs(role)) for role in (Role.VIEWER, Role.ANNOTATOR, Role.OPERATOR))

    async def store(request: Request) -> Response:
        """Take DICOM objects in: for the models that the endpoint's rules choose."""
        from medray.pacs.stow import take_in  # noqa: PLC0415 - without rules, no pydicom

        if spool is None:
            raise NotFoundError("this endpoint takes no series in: serve with --set rules=[…] and --set pacs=dicomweb://…")
        return await take_in(request, spool, Quiet())

    async def look(path: str, request: Request) -> Response:
        """Ask the PACS."""
        return await _through(desk, pacs, request, _without(path, "qido/", "wado/"))

    async def proxied_store(path: str, request: Request) -> Response:
        """Store in the PACS, as a viewer does with what its user drew."""
        return await _through(desk, pacs, request, _without(path, "stow/"))

    async def store_study(study: str, request: Request) -> Response:
        """Take DICOM objects of one study in."""
        return await store(request)

    _add(routes, "POST", "/dicomweb/studies", store, asking, ANSWERS)
    _add(routes, "POST", "/dicomweb/studies/{study}", store_study, asking, ANSWERS)
    _add(routes, "GET", "/dicomweb/{path:path}", look, seeing, REFUSALS)
    _add(routes, "GET", "/monailabel/proxy/dicom/{path:path}", look, seeing, REFUSALS)
    _add(routes, "POST", "/monailabel/proxy/dicom/{path:path}", proxied_store, asking, ANSWERS)

    @routes.get("/v1/orders", dependencies=[operating], responses=REFUSALS)
    async def orders(most: Annotated[int, Query(ge=1, le=1000)] = 100) -> dict[str, list[dict[str, Any]]]:
        """Say what became of the series that came in, the newest first."""
        return {"orders": [asdict(order) for order in await asyncio.to_thread(book.latest, most)]}

    return routes


def _add(
    routes: APIRouter, verb: str, path: str, answer: Callable[..., Any], may: Any, responses: dict[int | str, dict[str, Any]]
) -> None:
    extra = {"requestBody": {"content": DICOM}} if verb == "POST" else None
    told = {**responses, **ANY, 202: {"description": "Some objects were refused."}, 409: {"description": "All were."}}
    routes.add_api_route(
        path, answer, methods=[verb], dependencies=[may], responses=told, openapi_extra=extra, operation_id=f"{verb} {path}"
    )


def _without(path: str, *roots: str) -> str:
    """Return a path below one of OHIF's data source roots."""
    return next((path.removeprefix(root) for root in roots if path.startswith(root)), path)


async def _through(desk: Desk, pacs: "DicomwebPacs | None", request: Request, path: str) -> Response:
    if pacs is None:
        raise NotFoundError("this endpoint has no PACS: serve with --set pacs=dicomweb://…")
    if not RESOURCE.fullmatch(path):
        raise NotFoundError("only studies, series and instances can be asked for")
    headers = {name: request.headers[name] for name in PASSED if name in request.headers}
    async with desk.received(request, empty=True) as body:
        words = (request.method, path, request.url.query, headers, body or None)
        reply = await asyncio.get_running_loop().run_in_executor(_waiting, pacs.through, *words)
    kept = {name: reply.headers[name] for name in KEPT if name in reply.headers}
    if reply.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise StorageError("the PACS fails: try again")
    return StreamingResponse(reply.raw.stream(CHUNK, decode_content=False), reply.status_code, headers=kept)
