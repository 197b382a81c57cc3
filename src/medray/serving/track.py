"""``POST /v1/track/{model}``: what changed between a patient's scans."""

import asyncio
import json
import time
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Depends, Request, Response

from medray import config
from medray.cohort.addition import naming_of
from medray.errors import ConfigError, InputError
from medray.progression.history import Tracking
from medray.progression.when import day_of_text
from medray.serving.auth import Refusal, Role
from medray.serving.clerk import Clerk
from medray.serving.desk import Desk
from medray.serving.form import FORM, json_of, media_type_of, parts_of
from medray.serving.guard import Guard
from medray.serving.patient import HISTORIES, TRACKING, Patient
from medray.serving.results import JSON, accepted
from medray.serving.sources import Reference, parse_reference
from medray.serving.v1 import ANSWERS, may_wait, promised, respond
from medray.serving.worklist import Worklist

__all__ = ["track"]

BINARY = {"type": "string", "format": "binary"}
SETTINGS = {
    "days": {"type": "array", "items": {"type": "number"}},
    "lesions": {"type": "array", "items": {"type": "string"}},
    "repeatability": {"type": "number"},
    "scale": {"type": "boolean"},
    "warp": {"type": "boolean"},
    "one_patient": {"type": "boolean"},
}
REFERRED = {
    "type": "object",
    "properties": {"scans": {"type": "array", "items": {"type": "object"}}, **SETTINGS},
    "required": ["scans"],
}
SENT = {"type": "object", "properties": {"scan": BINARY, "params": {"type": "string"}}}
BODY = {"requestBody": {"required": True, "content": {JSON: {"schema": REFERRED}, "multipart/form-data": {"schema": SENT}}}}
GIVEN: dict[int | str, dict[str, Any]] = {
    **ANSWERS,
    200: {"description": "What changed.", "content": {kind: {} for kind in HISTORIES}},
}
MOST_DAYS = 1e7
MOST = 24
"""Scans of one patient: each is registered with two others and the first."""


def track(desk: Desk, guard: Guard, shown: Worklist | None, clerk: Clerk) -> APIRouter:
    """Make the route."""
    routes = APIRouter(prefix="/v1")
    asking = Depends(guard.needs(Role.ANNOTATOR))

    @routes.post("/track/{model:path}", dependencies=[asking], responses=GIVEN, openapi_extra=BODY)
    async def track(model: str, request: Request) -> Response:
        """Tell what changed between two scans of a patient or more: files of a form, or references.

        A form has the files, each scan one (a series of DICOM as a zip), and ``params``; JSON has ``scans``, each a reference.
        Both may say ``days`` (of each scan, where DICOM or the cohort doesn't), ``lesions``, ``repeatability``, ``scale``,
        ``warp`` and ``one_patient``.
        """
        started = time.perf_counter()
        media_type = accepted(request.headers.get("accept", ""))
        if media_type not in HISTORIES:
            raise Refusal(HTTPStatus.NOT_ACCEPTABLE, "not-acceptable", f"Accept one of {', '.join(HISTORIES)}")
        version = await desk.resolve(model)
        async with desk.received(request) as body:
            patient = await asyncio.to_thread(_patient, desk, request, body, shown)
            if may_wait(request):
                pack, owner = await asyncio.to_thread(patient.packed), request.state.principal.name
                return promised(await clerk.take(owner, version, TRACKING, media_type, pack, referred=False))
            reply = await desk.track(version, patient, media_type)
        timing = {**reply.timing, "total": (time.perf_counter() - started) * 1000}
        return respond(reply, **{"Server-Timing": ", ".join(f"{stage};dur={value:.2f}" for stage, value in timing.items())})

    return routes


def _patient(desk: Desk, request: Request, body: bytes, shown: Worklist | None) -> Patient:
    """Read scans and settings.

    Raises:
        InputError: If they aren't as they should be.
        Refusal: 403, if a reference leads where nobody may read.
    """
    kind = request.headers.get("content-type", "")
    scans: list[bytes | Reference]
    if media_type_of(kind) in FORM:
        parts = parts_of(body, kind)
        scans = [part.data for part in parts if part.filename and part.name != "params"]
        said = dict(json_of(next((part.data for part in parts if part.name == "params"), b""), "params"))
    else:
        said = dict(json_of(body, "the body"))
        named = said.pop("scans", None)
        if not isinstance(named, list):
            raise InputError('send a form with files, or {"scans": [{"image": …}, {"image": …}]}')
        scans = [parse_reference(json.dumps(one).encode()) for one in named]
    days = said.pop("days", None)
    how = config.load(Tracking, said, what="the settings")
    if not 2 <= len(scans) <= MOST:
        raise InputError(f"change needs two scans or more, {MOST} at most; there are {len(scans)}")
    for scan in scans:
        if isinstance(scan, Reference):
            desk.sources.check(scan)
    if shown and not how.one_patient:
        _require_one(scans, shown)
    return Patient(tuple(scans), _days(days, scans, shown), how)


def _days(said: Any, scans: Sequence[bytes | Reference], shown: Worklist | None) -> tuple[float | None, ...]:
    if said is None:
        return tuple(_day(scan, shown) for scan in scans)
    if not isinstance(said, list) or not all(isinstance(day, int | float) and abs(day) < MOST_DAYS for day in said):
        raise InputError("days are a list of numbers, such as [0, 180]")
    if len(said) != len(scans):
        raise InputError(f"days go with scans one by one: these are {len(said)} days of {len(scans)} scans")
    return tuple(float(day) for day in said)


def _require_one(scans: Sequence[bytes | Reference], shown: Worklist) -> None:
    """Refuse images of several of the cohort's patients."""
    if len({shown.find(scan.image).subject for scan in scans if isinstance(scan, Reference) and scan.image}) > 1:
        raise InputError("the images are of several patients: give images of one")


def _day(scan: bytes | Reference, shown: Worklist | None) -> float | None:
    """Return when an image of the cohort was made, as far as it keeps that sealed."""
    if not isinstance(scan, Reference) or not scan.image or shown is None:
        return None
    row = shown.find(scan.image)
    try:
        return day_of_text(naming_of(shown.cohort).unseal(row.when))
    except ConfigError:  # without the key nobody knows
        return None
