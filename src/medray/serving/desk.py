"""What every face of the endpoint asks for: a model's version, an answer of the pool, room for a body."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi import Request
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from medray.errors import ImageError, ResourceError
from medray.monitoring.metrics import Meters
from medray.registry.card import ModelCard
from medray.registry.registry import Registry
from medray.registry.served import SERVED_S
from medray.registry.version import ModelVersion
from medray.serving.parcels import Parcels, Wanted, is_small
from medray.serving.patient import Patient
from medray.serving.references import References
from medray.serving.results import Reply, describe, problem
from medray.serving.room import Room
from medray.serving.rules import Rule
from medray.serving.sources import Reference, Sources
from medray.serving.ticket import Ticket

__all__ = ["DIED", "LATE", "Desk", "Limits"]

ATTEMPTS = 3
"""Predicting twice does no harm: a request whose replica died goes to another."""
DIED, LATE = "replica-died", "time-out"
"""Titles of problems that say something of who was asked; ``busy`` doesn't."""
TRIAL = 0.25
"""Share of the time for an answer that a version on trial has: who waits for it is then answered by the champion."""
CALLS_EACH = 2
"""Calls with small images that are under way for each replica there may be: one is worked on and the next is there."""
BUSY = {"Retry-After": "2"}
LONGEST_PAUSE_S = 30.0
"""Between two times that something without a caller who waits finds all replicas busy."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What may be asked for.

    Attributes:
        models: References that are kept loaded; their names are all that may be asked for, or any where there are none.
        max_body_mb: Of one request.
        bodies_mb: Of all requests that are being received or answered.
        max_replicas: Of the pool.
        timeout_s: Seconds that an answer may take.
        refresh_s: Seconds after which a moved alias is seen.
        sources: URIs below which references may be read.
        pacs: A DICOMweb service for references.
        cohort: The cohort that viewers are shown; none where it is empty.
        ohif: Folder with a build of OHIF; none where it is empty.
        jobs: Folder for what is answered later; below ``MEDRAY_HOME`` where it is empty.
        keep_answers_s: Seconds after which an answer that was waited for is deleted.
        rules: Which models series are for that come in by STOW-RS.
        spool: Local folder where they come in; below ``MEDRAY_HOME`` where it is empty.
        quiet_s: Seconds without a new object after which a study is whole.
        records: URI of where predictions are recorded; below ``MEDRAY_HOME`` where it is empty.
        records_days: Days after which they are deleted; 0 keeps them.
        watch_s: Seconds after which drift is looked at again.
    """

    models: tuple[str, ...] = ()
    max_body_mb: int = 512
    bodies_mb: int = 1024
    max_replicas: int = 1
    timeout_s: float = 600
    refresh_s: float = 1
    sources: tuple[str, ...] = ()
    pacs: str = ""
    cohort: str = ""
    ohif: str = ""
    jobs: str = ""
    keep_answers_s: float = 86_400
    rules: tuple[Rule, ...] = ()
    spool: str = ""
    quiet_s: float = 30
    records: str = ""
    records_days: int = 0
    watch_s: float = 300

    @property
    def names(self) -> frozenset[str]:
        """Names of the models that may be asked for."""
        return frozenset(reference.split("@")[0].split("/")[0] for reference in self.models)


class Desk:
    """Takes requests to the pool.

    Attributes:
        registry: Where models are.
        limits: What may be asked for.
        sources: What may be referred to.

    Args:
        pool: Who answers.
        registry: Where models are.
        limits: What may be asked for.
        meters: Count what got no answer; nobody does without.
    """

    def __init__(self, pool: DeploymentHandle[Any], registry: Registry, limits: Limits, meters: Meters | None = None) -> None:
        self._pool = pool
        self.registry = registry
        self.limits = limits
        self._references = References(registry, limits.names, limits.refresh_s, self.warm)
        self.sources = Sources(limits.sources, limits.pacs, limits.cohort)
        self._cards: dict[str, ModelCard] = {}
        self._parcels = Parcels(self._send, CALLS_EACH * limits.max_replicas)
        self._meters = meters
        self._asked: dict[str, float] = {}
        self._bodies = Room(limits.bodies_mb << 20, most_waiting=0)

    async def resolve(self, reference: str) -> ModelVersion:
        """Return the version that a reference means; see `References.resolve`."""
        return await self._references.resolve(reference)

    async def names(self) -> list[str]:
        """Return the names of the models that may be asked for."""
        return sorted(self.limits.names) or await asyncio.to_thread(self.registry.names)

    async def describe(self, reference: str) -> dict[str, Any]:
        """Say what a model is."""
        version = await self.resolve(reference)
        return describe(version, await self.card(version))

    async def card(self, version: ModelVersion) -> ModelCard:
        """Return a version's card, which never changes and is read once."""
        if str(version) not in self._cards:
            self._cards[str(version)] = await asyncio.to_thread(self.registry.card, version)
        return self._cards[str(version)]

    async def warm(self, version: ModelVersion) -> None:
        """Load a version somewhere.

        Raises:
            ResourceError: If that failed.
        """
        try:
            await self._pool.options(multiplexed_model_id=str(version)).warm.remote(str(version))
        except RayActorError:
            raise ResourceError(f"{version} isn't loaded yet: try again") from None

    async def ready(self) -> None:
        """Wait until the models that are kept loaded are."""
        for reference in self.limits.models:
            await self.warm(await self.resolve(reference))

    async def served(self) -> frozenset[str]:
        """Return the versions that are kept loaded, or were asked a while ago at most."""
        now = time.monotonic()
        for reference in self.limits.models:
            with suppress(Exception):  # the registry is away, or it was deleted: what was asked counts all the same
                self._asked[str(await self.resolve(reference))] = now
        self._asked = {version: at for version, at in self._asked.items() if now - at < SERVED_S}
        return frozenset(self._asked)

    async def ask(
        self, version: ModelVersion, task: str, image: bytes | Reference, media_type: str, ticket: Ticket | None = None
    ) -> Reply:
        """Have an image answered; see `Pool.answer`."""
        ticket = ticket or Ticket()
        self._asked[str(version)] = time.monotonic()
        if isinstance(image, bytes) and is_small(image):
            wanted = Wanted(task, image, media_type, ticket)
            return await self._once(version, lambda: self._parcels.ask(str(version), wanted), ticket)
        handle = self._pool.options(multiplexed_model_id=str(version))
        words = (str(version), task, image, media_type, ticket)
        return await self._once(version, lambda: handle.answer.remote(*words), ticket)

    async def _send(self, version: str, wanted: Sequence[Wanted]) -> Sequence[Reply]:
        """Have small images answered in one call."""
        replies: Sequence[Reply] = await self._pool.options(multiplexed_model_id=version).answer_all.remote(version, wanted)
        return replies

    async def track(self, version: ModelVersion, patient: Patient, media_type: str) -> Reply:
        """Have a patient's scans compared; see `Pool.track`."""
        self._asked[str(version)] = time.monotonic()
        handle = self._pool.options(multiplexed_model_id=str(version))
        return await self._once(version, lambda: handle.track.remote(str(version), patient, media_type))

    async def view(self, image: bytes | Reference) -> Reply:
        """Have an image read; see `Pool.view`."""
        return await self._once(None, lambda: self._pool.view.remote(image))

    async def _once(
        self, version: ModelVersion | None, call: Callable[[], Awaitable[Reply]], ticket: Ticket | None = None
    ) -> Reply:
        """Have something answered while its caller waits."""
        ticket, title = ticket or Ticket(), "busy"
        try:
            async with asyncio.timeout(self.limits.timeout_s * (1 if ticket.role == "champion" else TRIAL)):
                for _ in range(_attempts(ticket)):
                    try:
                        reply = await call()
                    except (BackPressureError, DeploymentUnavailableError):
                        title = "busy"
                        break
                    except RayActorError:
                        title = DIED
                        continue
                    return reply
        except TimeoutError:
            said = f"no answer within {self.limits.timeout_s:g} s: try again later, or send less"
            return self._unanswered(version, ticket, LATE, said)
        said = "a replica ended over this image: try again" if title == DIED else "all replicas are busy: try again"
        return self._unanswered(version, ticket, title, said)

    def _unanswered(self, version: ModelVersion | None, ticket: Ticket, title: str, said: str) -> Reply:
        """Say that there is no answer, and count that where somebody waits for it: no replica knows of it."""
        waited_for = ticket.role == "champion" and not ticket.against
        if self._meters is not None and version is not None and waited_for:
            self._meters.unanswered(version.name, version.version, title)
        return problem(HTTPStatus.SERVICE_UNAVAILABLE, title, said, BUSY)

    async def follow(
        self,
        version: ModelVersion,
        task: str,
        wanted: bytes | Reference | Patient,
        media_type: str,
        tell: Callable[[float], None],
        ticket: Ticket | None = None,
        *,
        patience_s: float = 0.0,
    ) -> Reply:
        """Have an image or a patient answered, however long that takes; waits while all are busy.

        Args:
            version: Of the model.
            task: What is asked for.
            wanted: The image's file, or where it is; or the patient's scans.
            media_type: Of the answer.
            tell: Called with how far it is, 0 to 1.
            ticket: Why it is asked.
            patience_s: For which it waits; as long as answers are kept, by default.
        """
        self._asked[str(version)] = time.monotonic()
        handle = self._pool.options(multiplexed_model_id=str(version), stream=True)
        ticket = ticket or Ticket()
        trial, attempts = ticket.role != "champion", _attempts(ticket)  # whoever is on trial keeps nobody waiting
        deaths, pause = 0, 1.0
        patience = time.monotonic() + (patience_s or self.limits.keep_answers_s)
        while deaths < attempts and time.monotonic() < patience:
            try:
                async for said in handle.answer_slowly.remote(str(version), task, wanted, media_type, ticket):
                    if not isinstance(said, Reply):
                        tell(said)
                    elif trial or said.status != HTTPStatus.SERVICE_UNAVAILABLE:
                        return said
            except (BackPressureError, DeploymentUnavailableError):
                if trial:
                    break
            except RayActorError:
                deaths += 1
                continue
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)
        title = DIED if deaths == attempts else "busy"
        return self._unanswered(version, ticket, title, "replicas ended over it, or all were busy: try again")

    @asynccontextmanager
    async def received(self, request: Request, *, empty: bool = False) -> AsyncIterator[bytes]:
        """Receive a body, once there is room for what its header declares: as much as it may have where it declares nothing.

        Args:
            request: Whose body.
            empty: Whether it may have none.

        Raises:
            ImageError: If it is empty or too large.
            ResourceError: If too many are being received and answered.
        """
        most, header = self.limits.max_body_mb << 20, request.headers.get("content-length", "")
        sends = header.isdecimal() or "transfer-encoding" in request.headers
        declared = (int(header) if header.isdecimal() else most) if sends else 0
        too_large = ImageError("too-large", f"a body may have at most {self.limits.max_body_mb} MiB")
        if declared > most:
            raise too_large
        async with self._bodies.hold(declared):
            chunks, size = [], 0
            async for chunk in request.stream():
                size += len(chunk)
                if size > declared:
                    raise too_large
                chunks.append(chunk)
            if not size and not empty:
                raise ImageError("empty-body", "the body is empty: send the image's bytes")
            yield b"".join(chunks)


def _attempts(ticket: Ticket) -> int:
    """Return how many replicas may die over an image: of a version on trial one, and no more."""
    return ATTEMPTS if ticket.role == "champion" else 1
