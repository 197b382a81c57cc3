"""The labels of a case: what its experts drew or said, each version with its ETag, and what becomes of them.

Who changes a label says which version they saw: ``If-Match`` with its ETag, or ``If-None-Match: *`` for the first one. It is
412 where that is no longer the newest, and 409 where a label is there and nothing was said.
"""

import asyncio
from http import HTTPStatus
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response

from medray.annotation.store import Version
from medray.errors import InputError
from medray.serving.auth import Principal, Refusal, Role
from medray.serving.blinding import plain
from medray.serving.case_room import MOST_NUMBER, CaseRoom, Work, etag_of, json_in
from medray.serving.desk import Desk
from medray.serving.guard import Guard
from medray.serving.projects import Office
from medray.serving.results import JSON, NRRD, Reply, told
from medray.serving.v1 import ANSWERS, REFUSALS, respond

__all__ = ["labels"]

BINARY = {"schema": {"type": "string", "format": "binary"}}
PUT_BODY = {
    "requestBody": {"required": True, "content": {NRRD: BINARY, "application/octet-stream": BINARY, JSON: {"schema": {}}}}
}
REVIEW_BODY = {"requestBody": {"required": True, "content": {JSON: {"schema": {"type": "object"}}}}}
GIVEN = {**REFUSALS, 200: {"description": "A label map, or JSON.", "content": {NRRD: {}, JSON: {}}}}
CHANGED: dict[int | str, dict[str, Any]] = {
    **{status: ANSWERS[status] for status in (400, 401, 403, 404, 409, 413, 415, 422, 429, 503)},
    201: {"description": "A further version."},
    412: {"description": "There is a newer version than If-Match names."},
}


def labels(desk: Desk, guard: Guard, office: Office) -> APIRouter:
    """Make the routes under ``/v1/projects/{project}/cases/{image}``."""
    routes = APIRouter(prefix="/v1/projects/{project}/cases/{image:path}", tags=["annotation"])
    drawing, reviewing = Depends(guard.needs(Role.ANNOTATOR)), Depends(guard.needs(Role.REVIEWER))
    room = CaseRoom(desk, office)

    @routes.get("/labels/{whose:path}", responses=GIVEN)
    async def label(project: str, image: str, whose: str, principal: Annotated[Principal, drawing]) -> Response:
        """Give a label: ``mine``, an expert's, ``consensus``, ``adjudicated``, or the ``model``'s to start from."""
        return await room.label(project, image, whose, principal)

    @routes.put("/labels/{whose:path}", status_code=HTTPStatus.CREATED, responses=CHANGED, openapi_extra=PUT_BODY)
    async def hand_in(
        project: str,
        image: str,
        whose: Literal["mine", "adjudicated"],
        request: Request,
        principal: Annotated[Principal, drawing],
        work: Annotated[Work, Query()],
    ) -> Response:
        """Hand a label in: NRRD or NIfTI on the image's grid, or JSON of what isn't drawn."""
        async with desk.received(request) as body:
            which = (project, image, whose)
            kept = await asyncio.to_thread(room.hand_in, which, principal, body, work, seen_by(request))
        return _created(kept)

    @routes.post("/labels/{whose:path}/review", status_code=HTTPStatus.CREATED, responses=CHANGED, openapi_extra=REVIEW_BODY)
    async def decide(
        project: str, image: str, whose: str, request: Request, principal: Annotated[Principal, reviewing]
    ) -> Response:
        """Approve a label, or give it back with a comment: ``{"decision": "approved" or "rejected", "comment": …}``."""
        async with desk.received(request) as body:
            said = await asyncio.to_thread(_decision, body)
        return _created(await asyncio.to_thread(room.review, (project, image, whose), principal, said, seen_by(request)))

    @routes.post("/consensus", status_code=HTTPStatus.CREATED, responses=CHANGED)
    async def agree(project: str, image: str, principal: Annotated[Principal, reviewing]) -> Response:
        """Make the consensus of the labels that count, and say how far they agree."""
        return _created(await asyncio.to_thread(room.conclude, project, image, principal))

    @routes.get("/disagreement", responses=GIVEN)
    async def differ(project: str, image: str, principal: Annotated[Principal, reviewing]) -> Response:
        """Give where experts differ: of each voxel the share of pairs of experts who give it different values."""
        return respond(Reply(HTTPStatus.OK, NRRD, await asyncio.to_thread(room.disagreement, project, image, principal)))

    @routes.get("/history", responses=REFUSALS)
    async def history(project: str, image: str, principal: Annotated[Principal, reviewing]) -> dict[str, Any]:
        """List every version of every label of a case, the oldest first."""
        return {"versions": await asyncio.to_thread(room.history, project, image, principal)}

    @routes.get("", responses=REFUSALS)
    async def shown(project: str, image: str, principal: Annotated[Principal, drawing]) -> dict[str, Any]:
        """Say what there is of a case that one may see."""
        return await asyncio.to_thread(room.shown, project, image, principal)

    return routes


def seen_by(request: Request) -> int | None:
    """Return the number of the version that a request's author saw: 0 for none, None where it doesn't say.

    Raises:
        Refusal: 412, where If-Match names none of ours.
    """
    match = request.headers.get("if-match", "").strip()
    if match:
        number = match.removeprefix("W/").strip('"')
        if not number.isdecimal() or int(number) > MOST_NUMBER:
            raise Refusal(HTTPStatus.PRECONDITION_FAILED, "changed", "If-Match has to name one version's ETag")
        return int(number)
    return 0 if request.headers.get("if-none-match", "").strip() == "*" else None


def _created(version: Version) -> Response:
    return respond(told(plain(version), HTTPStatus.CREATED), **etag_of(version))


def _decision(body: bytes) -> tuple[Literal["approved", "rejected"], str]:
    said = json_in(body)
    if not isinstance(said, dict) or said.get("decision") not in {"approved", "rejected"}:
        raise InputError('say {"decision": "approved"} or {"decision": "rejected", "comment": "…"}')
    return said["decision"], str(said.get("comment", ""))[:2000]
