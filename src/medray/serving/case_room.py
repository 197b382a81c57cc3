"""One case of a project, as people ask for it: its labels, what becomes of them, and what its experts say together."""

import asyncio
import json
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Literal

import numpy as np
from fastapi import Response
from pydantic import BaseModel, Field

from medray.annotation.agreement import disagreement
from medray.annotation.cases import Case
from medray.annotation.conclusion import conclude, drawn_by
from medray.annotation.projects import MINE, RESERVED, Project
from medray.annotation.store import ADJUDICATED, CONSENSUS, PRELABEL, Label, Version
from medray.annotation.submission import begin_with, label_of, review, submit
from medray.cohort.manifest import SeriesRow
from medray.errors import ConflictError, InputError, NotFoundError, OutdatedError
from medray.formats.image import read_file
from medray.formats.nrrd import write_nrrd
from medray.imaging.volume import Volume
from medray.serving.auth import Principal, Refusal, Role
from medray.serving.blinding import name_for, plain, require_sight, sees_others, visible
from medray.serving.desk import Desk
from medray.serving.guard import require
from medray.serving.projects import Office
from medray.serving.results import NRRD, SEGMENTS, Reply, told
from medray.serving.sources import Reference
from medray.serving.v1 import respond

__all__ = ["MOST_NUMBER", "CaseRoom", "Work", "etag_of", "json_in"]

"""What isn't an expert's, as it is asked for, and its tag."""

MOST_NUMBER = 2**31 - 1


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
    start: int = Field(default=0, ge=0, le=MOST_NUMBER)
    edits: int = Field(default=0, ge=0, le=MOST_NUMBER)
    tool: str = Field(default="", max_length=100)

    @property
    def facts(self) -> dict[str, Any]:
        """What was said."""
        return self.model_dump(exclude={"status"}, exclude_defaults=True)


class CaseRoom:
    """Answers about cases; each question opens its case anew.

    Args:
        desk: Who has images answered.
        office: The cohort's projects.
    """

    def __init__(self, desk: Desk, office: Office) -> None:
        self._desk = desk
        self._office = office

    def shown(self, name: str, image: str, principal: Principal) -> dict[str, Any]:
        """Return what there is of a case that somebody may see."""
        project, row, case = self._open(name, image)
        return {
            "image": row.series,
            "state": case.state,
            "guidelines": project.guidelines,
            "mine": plain(own) if (own := case.of(principal.name)) else None,
            **{
                whose: plain(found) if (found := self._shared(project, case, whose, principal)) else None
                for whose in (CONSENSUS, ADJUDICATED)
            },
            "labels": [
                {**plain(one), "whose": name_for(project, case, one, principal)}
                for one in visible(project, case, principal)
                if one.label.annotator != principal.name
            ],
        }

    async def label(self, name: str, image: str, whose: str, principal: Principal) -> Response:
        """Give a label with its ETag, the project's model asked for its answer where it is to be given and isn't there."""
        if whose == "model":
            await self._prelabelled(name, image)
        return await asyncio.to_thread(self._label, name, image, whose, principal)

    def hand_in(self, which: tuple[str, str, str], principal: Principal, body: bytes, given: Work, seen: int | None) -> Version:
        """Take in what an expert made or a reviewer decided; ``which`` is project, image and whose."""
        name, image, whose = which
        project, row, case = self._open(name, image)
        if whose == ADJUDICATED:
            require(principal, Role.REVIEWER)
            if case.concerns(principal.name):
                raise Refusal(HTTPStatus.FORBIDDEN, "forbidden", "you have labelled this case: have another reviewer decide it")
            label = Label(row.series, "", ADJUDICATED, name)
        else:
            label = label_of(project, row.series, principal.name)
            if principal.name not in case.experts:
                raise Refusal(HTTPStatus.FORBIDDEN, "forbidden", "this case isn't yours: ask an operator to assign it")
        volume = self._office.worklist.volume(row)
        drawn = project.kind == "segmentation"
        said = self._office.worklist.label_map(volume, body) if drawn else json_in(body)
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
        """Approve a label or give it back; ``which`` is project, image and whose, ``said`` the decision and a comment."""
        name, image, whose = which
        project, _, case = self._open(name, image)
        decision, comment = said
        found = self._find(project, case, whose, principal)
        store = self._office.worklist.labels
        if seen is None:
            raise Refusal(HTTPStatus.CONFLICT, "conflict", "say which version you decide on: If-Match with its ETag")
        return _precise(seen, lambda known: review(store, found.label, principal.name, decision, seen=known, comment=comment))

    def conclude(self, name: str, image: str, principal: Principal) -> Version:
        """Make the consensus of a case's labels."""
        project, row, case = self._open(name, image)
        spacing_mm = self._office.worklist.volume(row).spacing_mm
        return conclude(self._office.worklist.labels, project, case, spacing_mm, principal.name)

    def disagreement(self, name: str, image: str, principal: Principal) -> bytes:
        """Return where experts differ, as NRRD."""
        project, _, case = self._open(name, image)
        require_sight(project, case, principal)
        store = self._office.worklist.labels
        if project.kind != "segmentation" or not case.live:
            raise NotFoundError("nothing is drawn of this case that could be compared")
        first = store.mask(case.live[0])
        return write_nrrd(Volume(disagreement(drawn_by(store, case.live))[np.newaxis], first.affine))

    def history(self, name: str, image: str, principal: Principal) -> list[dict[str, Any]]:
        """Return every version of every label of a case, the oldest first."""
        project, row, case = self._open(name, image)
        require_sight(project, case, principal)
        found = self._office.worklist.labels.history(project=project.name, series=row.series)

        def told(person: str) -> str:
            return person if not project.blinded or principal.role >= Role.OPERATOR else case.alias(person)

        return [
            {
                **plain(one),
                "tag": one.label.tag,
                "whose": told(one.label.annotator),
                "by": told(one.actor),
                "parent": one.parent,
            }
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
        return respond(reply, **etag_of(found))

    def _find(self, project: Project, case: Case, whose: str, principal: Principal) -> Version:
        """Return a label, if this person may see it; who may not learns no more than who asks for one that isn't there."""
        if whose == MINE:
            found = case.of(principal.name)
        elif whose in RESERVED:
            found = self._shared(project, case, whose, principal)
        else:
            seen = visible(project, case, principal)
            found = next((one for one in seen if whose == name_for(project, case, one, principal)), None)
        if found is None:
            raise NotFoundError(f"there is no label {whose[:64]!r} of this case, or you may not see it yet")
        return found

    def _shared(self, project: Project, case: Case, whose: str, principal: Principal) -> Version | None:
        if whose == "model":
            store = self._office.worklist.labels
            return next(iter(store.heads(project=project.name, series=case.series, tag=PRELABEL)), None)
        if not sees_others(project, case, principal):
            return None
        found = case.consensus if whose == CONSENSUS else case.adjudicated
        return found if found and (found.live or principal.role >= Role.REVIEWER) else None

    def _open(self, name: str, image: str) -> tuple[Project, SeriesRow, Case]:
        project = self._office.projects.get(name)
        return project, *self._office.case(project, image)


def _precise(seen: int | None, act: Callable[[int], Version]) -> Version:
    """Do what needs the newest version to have been seen; who says nothing of it has seen none."""
    try:
        return act(seen or 0)
    except OutdatedError as error:
        if seen is not None:
            raise
        raise ConflictError(f"{error}; send If-Match with the ETag of the version that you saw") from None


def etag_of(version: Version) -> dict[str, str]:
    """Return the headers that say which version it is."""
    return {"ETag": f'"{version.number}"', "X-Medray-Label": version.status}


def json_in(body: bytes) -> Any:
    """Read JSON.

    Raises:
        InputError: If it is none.
    """
    try:
        return json.loads(body)
    except ValueError:
        raise InputError("what isn't drawn is sent as JSON, and the body is none") from None
