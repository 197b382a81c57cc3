"""What was asked for and is answered later: kept in the database, so that it outlives the process that works on it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from medray import config
from medray.database import open_database, told_plainly
from medray.errors import NotFoundError
from medray.serving.auth import Principal, Role
from medray.storage.location import Location, locate

__all__ = ["NAMED", "OVER", "Docket", "Job", "own_folder"]

OVER = ("done", "failed", "cancelled")
LEASE_S = 30.0
"""For which a gateway has a job to itself; it says that it lives more often than that."""
ATTEMPTS = 3
"""Gateways that may die over a job before it is taken to be the cause."""

NAMED = "named"

_tables = sa.MetaData()
JOBS = sa.Table(
    "serving_jobs", _tables,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("owner", sa.String(200), nullable=False),
    sa.Column("model", sa.String(200), nullable=False),
    sa.Column("task", sa.String(32), nullable=False),
    sa.Column("accept", sa.String(100), nullable=False),
    sa.Column("referred", sa.Boolean, nullable=False),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("progress", sa.Float, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("changed", sa.Float, nullable=False),
    sa.Column("lease", sa.Float, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("status", sa.Integer, nullable=False),
    sa.Column("media_type", sa.String(100), nullable=False),
    sa.Column("wish", sa.String(8), nullable=False, server_default=NAMED),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Job:
    """One request that is answered later.

    Attributes:
        id: Nobody can guess it.
        owner: Whose it is.
        model: ``name/version``, as it was when it was asked for; when it is over, of who has answered.
        task: What is asked for.
        accept: Media type of the answer.
        referred: Whether the input is a reference.
        state: ``queued``, ``running``, or one of `OVER`.
        progress: 0 to 1.
        created: Seconds since 1970.
        changed: When its state or progress last changed.
        lease: Until when a gateway has it to itself.
        attempts: Gateways that have begun it.
        status: HTTP's, of the answer; 0 while there is none.
        media_type: Of the answer.
        wish: `NAMED` where the request names a version; else whether a challenger is to answer, as `Traffic.ask` has it.
    """

    id: str
    owner: str
    model: str
    task: str
    accept: str
    referred: bool
    state: str
    progress: float
    created: float
    changed: float
    lease: float
    attempts: int
    status: int
    media_type: str
    wish: str

    def plain(self) -> dict[str, Any]:
        """Return what a client is told."""
        said = {"id": self.id, "model": self.model, "task": self.task, "state": self.state, "progress": round(self.progress, 3)}
        links = {"self": f"/v1/jobs/{self.id}"} | ({"result": f"/v1/jobs/{self.id}/result"} if self.status else {})
        return {**said, "created": self.created, "changed": self.changed, "status": self.status or None, "links": links}


def own_folder(folder: str, name: str) -> Location:
    """Return a folder below one that is given, or below ``MEDRAY_HOME``; on a disk it is its owner's alone."""
    place = locate(folder).join(name) if folder else locate(config.home() / name)
    if place.is_local:
        Path(place.path).mkdir(mode=0o700, parents=True, exist_ok=True)
        Path(place.path).chmod(0o700)
    return place


class Docket:
    """Jobs in the database, their inputs and answers in a folder that is its owner's alone.

    Args:
        folder: URI of the folder, for every gateway the same; below ``MEDRAY_HOME`` where it is empty.
    """

    def __init__(self, folder: str = "") -> None:
        self._engine = open_database(_tables)
        self._folder = own_folder(folder, "jobs")

    def add(self, owner: str, model: str, task: str, accept: str, body: bytes, *, referred: bool, wish: str = NAMED) -> Job:
        """Take a job in: when this returns, it outlives a crash."""
        now = time.time()
        job = Job(
            uuid.uuid4().hex, owner, model, task, accept, referred,
            state="queued", progress=0.0, created=now, changed=now, lease=0.0, attempts=0, status=0, media_type="",
            wish=wish,
        )  # fmt: skip
        self._place(job.id, "input").write(body)
        with told_plainly("jobs", "written"), self._engine.begin() as connection:
            connection.execute(JOBS.insert().values(asdict(job)))
        return job

    def get(self, number: str, principal: Principal) -> Job:
        """Return somebody's job; operators may see everybody's.

        Raises:
            NotFoundError: If there is none of this id, or it is somebody else's.
        """
        with told_plainly("jobs", "read"), self._engine.connect() as connection:
            row = connection.execute(sa.select(JOBS).where(JOBS.c.id == number)).first()
        job = Job(**row._mapping) if row else None  # noqa: SLF001 - SQLAlchemy's public name for it
        if job is None or (job.owner != principal.name and principal.role < Role.OPERATOR):
            raise NotFoundError("there is no such job, or it is over and its answer was deleted")
        return job

    def of(self, principal: Principal, *, most: int = 100) -> list[Job]:
        """Return somebody's jobs, or for an operator everybody's, the newest first."""
        query = sa.select(JOBS).order_by(JOBS.c.created.desc()).limit(most)
        if principal.role < Role.OPERATOR:
            query = query.where(JOBS.c.owner == principal.name)
        with told_plainly("jobs", "read"), self._engine.connect() as connection:
            return [Job(**row._mapping) for row in connection.execute(query)]  # noqa: SLF001

    def claim(self) -> Job | None:
        """Take the oldest job that nobody works on, for as long as a lease; None where there is none."""
        now = time.time()
        free = sa.select(JOBS).where(JOBS.c.state.not_in(OVER), JOBS.c.lease < now).order_by(JOBS.c.created).limit(1)
        with told_plainly("jobs", "written"), self._engine.begin() as connection:
            row = connection.execute(free.with_for_update(skip_locked=True)).first()
            if row is None:
                return None
            tried = int(row.attempts)
            changes = {"state": "failed" if tried >= ATTEMPTS else "running", "attempts": tried + 1, "lease": now + LEASE_S}
            connection.execute(JOBS.update().where(JOBS.c.id == row.id).values(**changes, changed=now))
        return Job(**{**row._mapping, **changes}) if tried < ATTEMPTS else self.claim()  # noqa: SLF001

    def keep(self, number: str, progress: float) -> bool:
        """Renew a lease and tell how far a job is; False when it was cancelled meanwhile."""
        now = time.time()
        changes = {"progress": progress, "lease": now + LEASE_S, "changed": now}
        with told_plainly("jobs", "written"), self._engine.begin() as connection:
            done = connection.execute(JOBS.update().where(JOBS.c.id == number, JOBS.c.state == "running").values(**changes))
        return bool(done.rowcount)

    def release(self, number: str) -> None:
        """Give a job back: another gateway, or the next one here, shall have it."""
        with told_plainly("jobs", "written"), self._engine.begin() as connection:
            running = (JOBS.c.id == number) & (JOBS.c.state == "running")
            connection.execute(JOBS.update().where(running).values(state="queued", lease=0.0, attempts=JOBS.c.attempts - 1))

    def finish(self, number: str, status: int, media_type: str, body: bytes, model: str = "") -> None:
        """Store an answer, with who has given it, and say that a job is over, unless it was cancelled."""
        self._place(number, "answer").write(body)
        changes = {"state": "done" if status < 400 else "failed", "progress": 1.0, "status": status, "media_type": media_type}
        changes |= {"model": model} if model else {}
        with told_plainly("jobs", "written"), self._engine.begin() as connection:
            running = (JOBS.c.id == number) & (JOBS.c.state == "running")
            connection.execute(JOBS.update().where(running).values(**changes, changed=time.time()))
        self._forget(number, "input")

    def cancel(self, number: str) -> None:
        """End a job that isn't over; who works on it learns of it when it renews its lease."""
        with told_plainly("jobs", "written"), self._engine.begin() as connection:
            going = (JOBS.c.id == number) & JOBS.c.state.not_in(OVER)
            connection.execute(JOBS.update().where(going).values(state="cancelled", changed=time.time()))
        self._forget(number, "input")

    def input(self, number: str) -> bytes:
        """Return what a job is about."""
        return self._place(number, "input").read()

    def answer(self, number: str) -> bytes:
        """Return a job's answer."""
        return self._place(number, "answer").read()

    def purge(self, *, older_s: float) -> int:
        """Delete jobs that have been over for so long, with their answers; return how many."""
        with told_plainly("jobs", "written"), self._engine.begin() as connection:
            old = JOBS.c.state.in_(OVER) & (JOBS.c.changed < time.time() - older_s)
            numbers: Sequence[str] = connection.execute(sa.select(JOBS.c.id).where(old)).scalars().all()
            connection.execute(JOBS.delete().where(JOBS.c.id.in_(numbers)))
        for number in numbers:
            self._forget(number, "input")
            self._forget(number, "answer")
        return len(numbers)

    def _place(self, number: str, what: str) -> Location:
        return self._folder.join(number, what)

    def _forget(self, number: str, what: str) -> None:
        place = self._place(number, what)
        if place.exists():
            place.remove()
