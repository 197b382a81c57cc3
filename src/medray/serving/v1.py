"""medray's own routes: models, predictions of each task, and those that are answered later."""

import asyncio
import time
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from medray.errors import ImageError
from medray.serving.auth import Principal, Refusal, Role
from medray.serving.clerk import Clerk
from medray.serving.desk import Desk
from medray.serving.form import FORM, RELATED, media_type_of, parts_of, zip_of
from medray.serving.guard import Guard
from medray.serving.jobs import NAMED, OVER, Docket, Job
from medray.serving.results import BOTH, FORMATS, JSON, NIFTI, NRRD, PROBLEM, Reply, accepted, told
from medray.serving.sources import Reference, parse_reference
from medray.serving.traffic import Asked, Traffic, is_shared

__all__ = ["BODY", "WISH", "image_in", "jobs", "may_wait", "promised", "respond", "unwrapped", "v1"]

WISH = "x-medray-canary"
"""Header by which a request asks for a model's challenger, ``always``, or not for it, ``never``."""
FOREIGN = ("application/octet-stream", NIFTI, NRRD, "application/dicom", "application/zip", *FORM)
ANSWERS: dict[int | str, dict[str, Any]] = {
    202: {"description": "A job, where `Prefer: respond-async` asked for one; Location says where."},
    200: {"description": "The answer, as Accept says.", "content": {kind: {} for kind in (JSON, BOTH, *FORMATS)}},
    **{
        status: {"description": what, "content": {PROBLEM: {}}}
        for status, what in {
            400: "The image can't be read.",
            401: "No valid token.",
            403: "Not this role.",
            404: "No such model.",
            406: "None of the types in Accept.",
            409: "Not in this state.",
            413: "Too large.",
            415: "No known format.",
            422: "An image, but none for this model.",
            429: "Too many requests; see Retry-After.",
            503: "Busy; see Retry-After.",
        }.items()
    },
}
REFUSALS: dict[int | str, dict[str, Any]] = {status: ANSWERS[status] for status in (401, 403, 404, 422, 429, 503)}
"""Of what has no body."""
BINARY = {"schema": {"type": "string", "format": "binary"}}
TEXT = {"type": "string", "minLength": 1}
REFERENCE = {
    "oneOf": [
        {"type": "object", "properties": dict.fromkeys(names, TEXT), "required": names, "additionalProperties": False}
        for names in (["uri"], ["study", "series"], ["image"])
    ]
}
BODY = {"requestBody": {"required": True, "content": {**dict.fromkeys(FOREIGN, BINARY), JSON: {"schema": REFERENCE}}}}


def v1(desk: Desk, guard: Guard, clerk: Clerk, traffic: Traffic) -> APIRouter:
    """Make the routes under ``/v1``."""
    routes = APIRouter(prefix="/v1")
    seeing, asking = (Depends(guard.needs(role)) for role in (Role.VIEWER, Role.ANNOTATOR))

    @routes.get("/me", responses=REFUSALS)
    async def me(principal: Annotated[Principal, seeing]) -> dict[str, str]:
        """Say who asks, and what their token lets them do."""
        return {"name": principal.name, "role": principal.role.name.lower()}

    @routes.get("/models", dependencies=[seeing], responses=REFUSALS)
    async def models() -> dict[str, list[dict[str, Any]]]:
        """List what may be asked for."""
        return {"models": [await desk.describe(name) for name in await desk.names()]}

    @routes.get("/models/{model:path}", dependencies=[seeing], responses=REFUSALS)
    async def model(model: str) -> dict[str, Any]:
        """Describe one model: name, name@alias or name/version."""
        return await desk.describe(model)

    async def predict(task: str, model: str, request: Request) -> Response:
        started = time.perf_counter()
        media_type = accepted(request.headers.get("accept", ""))
        if media_type is None:
            offered = ", ".join((JSON, BOTH, *FORMATS))
            raise Refusal(HTTPStatus.NOT_ACCEPTABLE, "not-acceptable", f"Accept one of {offered}")
        version, wish = await desk.resolve(model), request.headers.get(WISH, "")
        wish = wish if wish in {"always", "never"} else ""
        async with desk.received(request) as sent:
            body = await unwrapped(request, sent)
            if may_wait(request):
                image_in(desk, request, body)  # a reference that may not be is refused now, not later
                owner = request.state.principal.name
                wish = wish if is_shared(model) else NAMED
                taken = await clerk.take(owner, version, task, media_type, body, referred=_refers(request), wish=wish)
                return promised(taken)
            received = time.perf_counter()
            reply = await traffic.ask(model, version, Asked(task, image_in(desk, request, body), media_type), wish)
        done = time.perf_counter()
        known = {"receive": (received - started) * 1000, **reply.timing}
        total = (done - started) * 1000
        timing = {**known, "hop": total - sum(known.values()), "total": total}
        return respond(reply, **{"Server-Timing": ", ".join(f"{stage};dur={value:.2f}" for stage, value in timing.items())})

    @routes.post("/segment/{model:path}", dependencies=[asking], responses=ANSWERS, openapi_extra=BODY)
    async def segment(model: str, request: Request) -> Response:
        """Segment one image: NIfTI, NRRD, DICOM or a zip of DICOM in; JSON, or a NIfTI or NRRD mask out, as Accept says."""
        return await predict("segmentation", model, request)

    @routes.post("/diagnose/{model:path}", dependencies=[asking], responses=ANSWERS, openapi_extra=BODY)
    async def diagnose(model: str, request: Request) -> Response:
        """Say how probable findings are in one image; as an image: where each voxel speaks for them."""
        return await predict("diagnosis", model, request)

    @routes.post("/detect/{model:path}", dependencies=[asking], responses=ANSWERS, openapi_extra=BODY)
    async def detect(model: str, request: Request) -> Response:
        """Find things in one image: boxes with scores."""
        return await predict("detection", model, request)

    return routes


def may_wait(request: Request) -> bool:
    """Say whether the answer may come later (RFC 7240)."""
    return "respond-async" in request.headers.get("prefer", "")


def promised(job: Job) -> Response:
    """Say where the answer will be."""
    return respond(told(job.plain(), HTTPStatus.ACCEPTED), Location=f"/v1/jobs/{job.id}")


def jobs(docket: Docket, guard: Guard) -> APIRouter:
    """Make the routes of what is answered later: what was asked for with ``Prefer: respond-async`` (RFC 7240)."""
    routes = APIRouter(prefix="/v1/jobs")
    seeing = Depends(guard.needs(Role.VIEWER))

    @routes.get("", responses=REFUSALS)
    async def listed(principal: Annotated[Principal, seeing]) -> dict[str, list[dict[str, Any]]]:
        """List jobs, the newest first: one's own, or everybody's for an operator."""
        found = await asyncio.to_thread(docket.of, principal)
        return {"jobs": [job.plain() for job in found]}

    @routes.get("/{job}", responses=REFUSALS)
    async def shown(job: str, principal: Annotated[Principal, seeing]) -> dict[str, Any]:
        """Say how far a job is."""
        return (await asyncio.to_thread(docket.get, job, principal)).plain()

    @routes.get("/{job}/result", responses={**REFUSALS, 409: ANSWERS[409]})
    async def result(job: str, principal: Annotated[Principal, seeing]) -> Response:
        """Give a job's answer: what the request would have got."""
        found = await asyncio.to_thread(docket.get, job, principal)
        if not found.status:
            why = f"the job is {found.state}, and there is no answer"
            raise Refusal(HTTPStatus.CONFLICT, "no-answer", why, {"Retry-After": "2"} if found.state not in OVER else {})
        body = await asyncio.to_thread(docket.answer, job)
        return respond(Reply(found.status, found.media_type, body, {"X-Medray-Model": found.model}))

    @routes.delete("/{job}", responses=REFUSALS)
    async def cancel(job: str, principal: Annotated[Principal, seeing]) -> dict[str, Any]:
        """End a job."""
        await asyncio.to_thread(docket.get, job, principal)
        await asyncio.to_thread(docket.cancel, job)
        return (await asyncio.to_thread(docket.get, job, principal)).plain()

    return routes


async def unwrapped(request: Request, body: bytes) -> bytes:
    """Return the image of a body that may be multipart: its files, one or those of a DICOM series."""
    content_type = request.headers.get("content-type", "")
    return await asyncio.to_thread(_files_in, body, content_type) if media_type_of(content_type) in FORM else body


def _files_in(body: bytes, content_type: str) -> bytes:
    parts = parts_of(body, content_type)
    files = [part.data for part in parts if part.filename or media_type_of(content_type) == RELATED]
    if not any(files):
        raise ImageError("empty-body", "the body has no part with an image: send it as a file")
    return zip_of(files)


def _refers(request: Request) -> bool:
    return media_type_of(request.headers.get("content-type", "")) == JSON


def image_in(desk: Desk, request: Request, body: bytes) -> bytes | Reference:
    """Return the image, or what a JSON body refers to."""
    if not _refers(request):
        return body
    reference = parse_reference(body)
    desk.sources.check(reference)
    return reference


def respond(reply: Reply, **headers: str) -> Response:
    """Make the response; Serve itself adds ``X-Request-ID``: the client's own where it sent one."""
    return Response(reply.body, reply.status, media_type=reply.media_type, headers={**reply.headers, **headers})
