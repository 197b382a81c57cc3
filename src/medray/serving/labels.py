"""The labels of a case: what its experts drew or said, each version with its ETag, and what becomes of them.

Who changes a label says which version they saw: ``If-Match`` with its ETag, or ``If-None-Match: *`` for the first one. It is
412 where that is no longer the newest, and 409 where a label is there and nothing was said.
"""

import asyncio
import json
from collections.abc import Callable
from http import HTTPStatus
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, Field

from medray.annotation.agreement import disagreement
from medray.annotation.cases import Case
from medray.annotation.conclusion import conclude, drawn_by
from medray.annotation.projects import Project
from medray.annotation.store import ADJUDICATED, CONSENSUS, PRELABEL, Label, Version
from medray.annotation.submission import begin_with, label_of, review, submit
from medray.cohort.manifest import SeriesRow
from medray.errors import ConflictError, InputError, NotFoundError, OutdatedError
from medray.formats.image import read_file
from medray.formats.nrrd import write_nrrd
from medray.imaging.volume import Volume
from medray.serving.auth import Principal, Refusal, Role
from medray.serving.desk import Desk
from medray.serving.guard import Guard
from medray.serving.projects import Office
from medray.serving.results import JSON, NRRD, SEGMENTS, Reply, told
from medray.serving.sources import Reference
from medray.serving.v1 import ANSWERS, REFUSALS, respond

__all__ = ["labels"]

MINE = "mine"
SHARED = {CONSENSUS: CONSENSUS, ADJUDICATED: ADJUDICATED, "model": PRELABEL}
"""What isn't an expert's, as it is asked for, and its tag."""
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


class Work(BaseModel):
    """What is said of a label that is handed in.

    Attributes:
        status: Whether it is done.
        seconds: That it took.
        start: Number of the version that it was begun with; 0 for none.
        edits: Strokes, or other changes, that it took.
        tool: That it was made with.
    """

    status: Literal["draft", "submitted"] = "submitted"
    seconds: float = Field(default=0, ge=0, le=1e7)
    start: int = Field(default=0, ge=0)
    edits: int = Field(default=0, ge=0)
    tool: str = Field(default="", max_length=100)

    @property
    def facts(self) -> dict[str, Any]:
        """What was said."""
        return self.model_dump(exclude={"status"}, exclude_defaults=True)


def labels(desk: Desk, guard: Guard, office: Office) -> APIRouter:
    """Make the routes under ``/v1/projects/{project}/cases/{image}``."""
    routes = APIRouter(prefix="/v1/projects/{project}/cases/{image}", tags=["annotation"])
    drawing, reviewing = Depends(guard.needs(Role.ANNOTATOR)), Depends(guard.needs(Role.REVIEWER))
    room = _CaseRoom(desk, office)

    @routes.get("", responses=REFUSALS)
    async def shown(project: str, image: str, principal: Annotated[Principal, drawing]) -> dict[str, Any]:
        """Say what there is of a case that one may see."""
        return await asyncio.to_thread(room.shown, project, image, principal)

    @routes.get("/labels/{whose}", responses=GIVEN)
    async def label(project: str, image: str, whose: str, principal: Annotated[Principal, drawing]) -> Response:
        """Give a label: ``mine``, an expert's, ``consensus``, ``adjudicated``, or the ``model``'s to start from."""
        return await room.label(project, image, whose, principal)

    @routes.put("/labels/{whose}", status_code=HTTPStatus.CREATED, responses=CHANGED, openapi_extra=PUT_BODY)
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

    @routes.post("/labels/{whose}/review", status_code=HTTPStatus.CREATED, responses=CHANGED, openapi_extra=REVIEW_BODY)
    async def decide(
        project: str, image: str, whose: str, request: Request, principal: Annotated[Principal, reviewing]
    ) -> Response:
        """Approve a label, or give it back with a comment: ``{"decision": "approved" or "rejected", "comment": …}``."""
        async with desk.received(request) as body:
            said = _decision(body)
        return _created(await asyncio.to_thread(room.review, (project, image, whose), principal, said, seen_by(request)))

    @routes.post("/consensus", status_code=HTTPStatus.CREATED, responses=CHANGED)
    async def agree(project: str, image: str, principal: Annotated[Principal, reviewing]) -> Response:
        """Make the consensus of the labels that count, and say how far they agree."""
        return _created(await asyncio.to_thread(room.conclude, project, image, principal))

    @routes.get("/disagreement", dependencies=[reviewing], responses=GIVEN)
    async def differ(project: str, image: str) -> Response:
        """Give where experts differ: of each voxel the share of pairs of experts who give it different values."""
        return respond(Reply(HTTPStatus.OK, NRRD, await asyncio.to_thread(room.disagreement, project, image)))

    @routes.get("/history", dependencies=[reviewing], responses=REFUSALS)
    async def history(project: str, image: str) -> dict[str, Any]:
        """List every version of every label of a case, the oldest first."""
        return {"versions": await asyncio.to_thread(room.history, project, image)}

    return routes


class _CaseRoom:
    """Answers about one case."""

    def __init__(self, desk: Desk, office: Office) -> None:
        self._desk = desk
        self._office = office

    def shown(self, name: str, image: str, principal: Principal) -> dict[str, Any]:
        project, row, case = self._open(name, image)
        return {
            "image": row.series,
            "state": case.state,
            "guidelines": project.guidelines,
            "mine": _plain(own) if (own := case.of(principal.name)) else None,
            **{
                whose: _plain(found) if (found := self._shared(project, case, whose, principal)) else None
                for whose in (CONSENSUS, ADJUDICATED)
            },
            "labels": [
                {**_plain(one), "whose": _name(project, case, one, principal)}
                for one in _visible(project, case, principal)
                if one.label.annotator != principal.name
            ],
        }

    async def label(self, name: str, image: str, whose: str, principal: Principal) -> Response:
        if whose == "model":
            await self._prelabelled(name, image)
        return await asyncio.to_thread(self._label, name, image, whose, principal)

    def hand_in(self, which: tuple[str, str, str], principal: Principal, body: bytes, given: Work, seen: int | None) -> Version:
        name, image, whose = which
        project, row, case = self._open(name, image)
        if whose == ADJUDICATED:
            _require(principal, Role.REVIEWER)
            label = Label(row.series, "", ADJUDICATED, name)
        else:
            label = label_of(project, row.series, principal.name)
            if principal.name not in case.experts:
                raise Refusal(HTTPStatus.FORBIDDEN, "forbidden", "this case isn't yours: ask an operator to assign it")
        volume = self._office.worklist.volume(row)
        drawn = project.kind == "segmentation"
        said = self._office.worklist.label_map(volume, body) if drawn else _json(body)
        work = Version(label, given.status, principal.name, facts=given.facts)
        store = self._office.worklist.labels
        return _precise(seen, lambda known: submit(store, project, work, said, seen=known, shape=volume.shape))

    def review(
        self,
        which: tuple[str, str, str],
        principal: Principal,
        said: tuple[Literal["approved", "rejected"], str],
        seen: int | None,
    ) -> Version:
        name, image, whose = which
        project, _, case = self._open(name, image)
        decision, comment = said
        found = self._find(project, case, whose, principal)
        store = self._office.worklist.labels
        if seen is None:
            raise Refusal(HTTPStatus.CONFLICT, "conflict", "say which version you decide on: If-Match with its ETag")
        return _precise(seen, lambda known: review(store, found.label, principal.name, decision, seen=known, comment=comment))

    def conclude(self, name: str, image: str, principal: Principal) -> Version:
        project, row, case = self._open(name, image)
        spacing_mm = self._office.worklist.volume(row).spacing_mm
        return conclude(self._office.worklist.labels, project, case, spacing_mm, principal.name)

    def disagreement(self, name: str, image: str) -> bytes:
        project, _, case = self._open(name, image)
        store = self._office.worklist.labels
        if project.kind != "segmentation" or not case.live:
            raise NotFoundError("nothing is drawn of this case that could be compared")
        first = store.mask(case.live[0])
        return write_nrrd(Volume(disagreement(drawn_by(store, case.live))[np.newaxis], first.affine))

    def history(self, name: str, image: str) -> list[dict[str, Any]]:
        project, row, _ = self._open(name, image)
        found = self._office.worklist.labels.history(project=project.name, series=row.series)
        return [
            {**_plain(one), "tag": one.label.tag, "whose": one.label.annotator, "by": one.actor, "parent": one.parent}
            for one in found
        ]

    async def _prelabelled(self, name: str, image: str) -> None:
        """Have the project's model answer, unless it has: what experts start from is the same for all."""
        project, row, _ = await asyncio.to_thread(self._open, name, image)
        if not project.model:
            raise NotFoundError(f"project {name} has no model to start from")
        store = self._office.worklist.labels
        if await asyncio.to_thread(store.heads, project=name, series=row.series, tag=PRELABEL):
            return
        version = await self._desk.resolve(project.model)
        reply = await self._desk.ask(version, "segmentation", Reference(image=row.series), SEGMENTS)
        if reply.status != HTTPStatus.OK:
            raise Refusal(reply.status, "no-answer", f"the project's model doesn't answer: {reply.refused}")
        names = (await self._desk.card(version)).targets
        await asyncio.to_thread(lambda: begin_with(store, project, row.series, read_file(reply.body), names, str(version)))

    def _label(self, name: str, image: str, whose: str, principal: Principal) -> Response:
        project, _, case = self._open(name, image)
        found = self._find(project, case, whose, principal)
        if found.kind == "segmentation":
            reply = Reply(HTTPStatus.OK, NRRD, write_nrrd(self._office.worklist.labels.mask(found)))
        else:
            reply = told(found.said)
        return respond(reply, **_headers(found))

    def _find(self, project: Project, case: Case, whose: str, principal: Principal) -> Version:
        """Return a label, if this person may see it; who may not learns no more than who asks for one that isn't there."""
        if whose == MINE:
            found = case.of(principal.name)
        elif whose in SHARED:
            found = self._shared(project, case, whose, principal)
        else:
            seen = _visible(project, case, principal)
            found = next((one for one in seen if whose == _name(project, case, one, principal)), None)
        if found is None:
            raise NotFoundError(f"there is no label {whose[:64]!r} of this case, or you may not see it yet")
        return found

    def _shared(self, project: Project, case: Case, whose: str, principal: Principal) -> Version | None:
        own = case.of(principal.name)
        if whose == "model":
            store = self._office.worklist.labels
            return next(iter(store.heads(project=project.name, series=case.series, tag=PRELABEL)), None)
        done = own is not None and own.live
        if principal.role < Role.REVIEWER and project.blinded and not done:
            return None
        return case.consensus if whose == CONSENSUS else case.adjudicated

    def _open(self, name: str, image: str) -> tuple[Project, SeriesRow, Case]:
        project = self._office.projects.get(name)
        return project, *self._office.case(project, image)


def seen_by(request: Request) -> int | None:
    """Return the number of the version that a request's author saw: 0 for none, None where it doesn't say.

    Raises:
        Refusal: 412, where If-Match names none of ours.
    """
    match = request.headers.get("if-match", "").strip()
    if match:
        number = match.removeprefix("W/").strip('"')
        if not number.isdecimal():
            raise Refusal(HTTPStatus.PRECONDITION_FAILED, "changed", "If-Match has to name one version's ETag")
        return int(number)
    return 0 if request.headers.get("if-none-match", "").strip() == "*" else None


def _precise(seen: int | None, act: Callable[[int], Version]) -> Version:
    """Do what needs the newest version to have been seen; who says nothing of it has seen none."""
    try:
        return act(seen or 0)
    except OutdatedError as error:
        if seen is not None:
            raise
        raise ConflictError(f"{error}; send If-Match with the ETag of the version that you saw") from None


def _visible(project: Project, case: Case, principal: Principal) -> tuple[Version, ...]:
    if principal.role >= Role.REVIEWER and principal.name not in case.experts:
        return tuple(one for one in case.labels if one.status != "draft")
    return case.visible(principal.name, blinded=project.blinded)


def _name(project: Project, case: Case, version: Version, principal: Principal) -> str:
    """Return what somebody is told of whose label it is."""
    known = not project.blinded or principal.role >= Role.OPERATOR
    return version.label.annotator if known else case.alias(version.label.annotator)


def _require(principal: Principal, role: Role) -> None:
    if principal.role < role:
        raise Refusal(HTTPStatus.FORBIDDEN, "forbidden", f"this needs the role {role.name.lower()}")


def _plain(version: Version) -> dict[str, Any]:
    facts = {name: value for name, value in version.facts.items() if name not in {"of", "raters"}}
    return {"version": version.number, "status": version.status, "kind": version.kind, "at": version.at, "facts": facts}


def _headers(version: Version) -> dict[str, str]:
    return {"ETag": f'"{version.number}"', "X-Medray-Label": version.status}


def _created(version: Version) -> Response:
    return respond(told(_plain(version), HTTPStatus.CREATED), **_headers(version))


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        raise InputError("what isn't drawn is sent as JSON, and the body is none") from None


def _decision(body: bytes) -> tuple[Literal["approved", "rejected"], str]:
    said = _json(body)
    if not isinstance(said, dict) or said.get("decision") not in {"approved", "rejected"}:
        raise InputError('say {"decision": "approved"} or {"decision": "rejected", "comment": "…"}')
    return said["decision"], str(said.get("comment", ""))[:2000]
