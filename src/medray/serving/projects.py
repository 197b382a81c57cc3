"""Annotation projects over the cohort that is shown: what is to be labelled, whose case is whose, how far all are."""

import asyncio
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic.dataclasses import dataclass

from medray import config
from medray.annotation.cases import Case, cases_of
from medray.annotation.projects import Project, Projects
from medray.annotation.store import Version
from medray.annotation.submission import released
from medray.annotation.summary import summarise
from medray.cohort.manifest import SeriesRow
from medray.errors import NotFoundError
from medray.serving.auth import Principal, Refusal, Role
from medray.serving.desk import Desk
from medray.serving.form import json_of
from medray.serving.guard import Guard
from medray.serving.monailabel_datastore import required
from medray.serving.results import JSON, told
from medray.serving.v1 import ANSWERS, REFUSALS, respond
from medray.serving.worklist import Worklist

__all__ = ["Office", "projects"]

BODY = {"requestBody": {"required": True, "content": {JSON: {"schema": {"type": "object"}}}}}
TAKEN = {**REFUSALS, 400: ANSWERS[400], 409: ANSWERS[409], 413: ANSWERS[413]}


@dataclass(frozen=True, kw_only=True, config=config.STRICT)
class _Shares:
    """Who is to label which cases: all of the cohort where none are named."""

    experts: tuple[str, ...]
    cases: tuple[str, ...] | None = None


class Office:
    """A cohort's projects, as the endpoint's routes ask for them.

    Args:
        shown: The cohort that is shown, if there is one.
    """

    def __init__(self, shown: Worklist | None) -> None:
        self._shown = shown

    @property
    def worklist(self) -> Worklist:
        """The cohort.

        Raises:
            NotFoundError: If none is shown.
        """
        return required(self._shown)

    @property
    def projects(self) -> Projects:
        """Its projects."""
        return self.worklist.projects

    def all(self) -> list[Project]:
        """Return all projects, by name."""
        return self.projects.all()

    def cases(self, project: Project) -> list[Case]:
        """Return a project's cases that are in the cohort."""
        heads = self.worklist.labels.heads(project=project.name)
        there = {row.series for row in self.worklist.cohort.rows}
        return [case for case in cases_of(project, self.projects.assigned(project.name), heads) if case.series in there]

    def case(self, project: Project, image: str) -> tuple[SeriesRow, Case]:
        """Return one case and its image's row.

        Raises:
            NotFoundError: If the cohort has no such image, or it is no case of the project.
        """
        row = self.worklist.find(image)
        assigned = self.projects.assigned(project.name, series=row.series)
        heads = self.worklist.labels.heads(project=project.name, series=row.series)
        found = cases_of(project, assigned, heads)
        if not found:
            raise NotFoundError(f"the image is no case of project {project.name}")
        return row, found[0]

    def mine(self, name: str, principal: Principal) -> list[dict[str, Any]]:
        """Return an expert's cases: those to be done first, by rank."""
        project = self.projects.get(name)
        told = []
        for case in self.cases(project):
            if principal.name in case.experts:
                row, label = self.worklist.find(case.series), case.of(principal.name)
                told.append(
                    {**_image(row), "status": label.status if label else "new", "version": label.number if label else 0}
                )
        return sorted(told, key=lambda one: one["status"] in {"submitted", "approved"})


def projects(desk: Desk, guard: Guard, office: Office) -> APIRouter:
    """Make the routes under ``/v1/projects`` of whole projects."""
    routes = APIRouter(prefix="/v1/projects", tags=["annotation"])
    seeing, drawing, reviewing, running = (
        Depends(guard.needs(role)) for role in (Role.VIEWER, Role.ANNOTATOR, Role.REVIEWER, Role.OPERATOR)
    )

    @routes.get("", dependencies=[seeing], responses=REFUSALS)
    async def listed() -> dict[str, Any]:
        """List the cohort's projects."""
        found = await asyncio.to_thread(office.all)
        return {"projects": [_told(project) for project in found]}

    @routes.post("", status_code=HTTPStatus.CREATED, responses=TAKEN, openapi_extra=BODY)
    async def create(request: Request, principal: Annotated[Principal, running]) -> Response:
        """Begin a project: its name, kind, names, guidelines, experts a case, and rules."""
        async with desk.received(request) as body:
            project = config.load(Project, await asyncio.to_thread(_read, body), what="the project")
        if project.model:
            await desk.resolve(project.model)
        made = await asyncio.to_thread(lambda: office.projects.create(project, principal.name))
        return respond(told(_told(made), HTTPStatus.CREATED), Location=f"/v1/projects/{made.name}")

    @routes.get("/{project}", dependencies=[seeing], responses=REFUSALS)
    async def shown(project: str) -> dict[str, Any]:
        """Describe a project, and say how many of its cases are in which state."""
        return await asyncio.to_thread(_shown, office, project)

    @routes.post("/{project}/assignments", responses=TAKEN, openapi_extra=BODY)
    async def assign(project: str, request: Request, principal: Annotated[Principal, running]) -> dict[str, Any]:
        """Share cases out among experts; what is assigned already stays."""
        async with desk.received(request) as body:
            wanted = config.load(_Shares, await asyncio.to_thread(_read, body), what="the assignment")
        new = await asyncio.to_thread(
            lambda: office.projects.assign(project, wanted.experts, principal.name, cases=wanted.cases)
        )
        return {"assigned": [{"image": one.series, "expert": one.annotator, "rank": one.rank} for one in new]}

    @routes.delete("/{project}/assignments/{expert:path}", responses=REFUSALS)
    async def release(project: str, expert: str, principal: Annotated[Principal, running]) -> dict[str, Any]:
        """Take those cases of an expert back that they haven't labelled, so that others can have them."""
        words = (office.worklist.labels, project, expert, principal.name)
        return {"released": await asyncio.to_thread(released, office.projects, *words)}

    @routes.get("/{project}/worklist", responses=REFUSALS)
    async def worklist(project: str, principal: Annotated[Principal, drawing]) -> dict[str, Any]:
        """List one's own cases, those to be done first."""
        return {"cases": await asyncio.to_thread(office.mine, project, principal)}

    @routes.get("/{project}/cases", dependencies=[reviewing], responses=REFUSALS)
    async def cases(project: str) -> dict[str, Any]:
        """List all cases with their state."""
        found = await asyncio.to_thread(lambda: office.cases(office.projects.get(project)))
        return {"cases": [_case(case) for case in found]}

    @routes.get("/{project}/summary", responses=REFUSALS)
    async def summary(project: str, principal: Annotated[Principal, reviewing]) -> dict[str, Any]:
        """Say how far each expert is and how far they agree: of a blinded project an operator."""
        return await asyncio.to_thread(_summary, office, project, principal)

    return routes


def _shown(office: Office, name: str) -> dict[str, Any]:
    project = office.projects.get(name)
    states = [case.state for case in office.cases(project)]
    return {**_told(project), "cases": len(states), "states": {state: states.count(state) for state in sorted(set(states))}}


def _summary(office: Office, name: str, principal: Principal) -> dict[str, Any]:
    project = office.projects.get(name)
    if project.blinded and principal.role < Role.OPERATOR:
        raise Refusal(HTTPStatus.FORBIDDEN, "forbidden", "in a blinded project experts' names are for its operators")
    return summarise(project, office.cases(project)).plain()


def _told(project: Project) -> dict[str, Any]:
    values = project.values if project.kind == "segmentation" else {}
    return {**config.dump(project), **({"values": values} if values else {})}


def _image(row: SeriesRow) -> dict[str, Any]:
    return {"image": row.series, "subject": row.subject, "modality": row.modality, "shape": list(row.shape)}


def _case(case: Case) -> dict[str, Any]:
    consensus: Version | None = case.consensus
    agreement = consensus.facts.get("agreement") if consensus and case.fresh else None
    statuses: Sequence[str] = [label.status for label in case.labels]
    counts: Mapping[str, int] = {status: statuses.count(status) for status in sorted(set(statuses))}
    return {"image": case.series, "rank": case.rank, "state": case.state, "labels": counts, "agreement": agreement}


def _read(body: bytes) -> dict[str, Any]:
    return dict(json_of(body, "the body"))
