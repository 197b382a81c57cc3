"""Works on jobs, a few at a time, in the gateway's own loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

from medray.errors import MedrayError
from medray.registry.version import ModelVersion
from medray.serving.auth import Refusal
from medray.serving.jobs import NAMED, Docket, Job
from medray.serving.patient import TRACKING, Patient
from medray.serving.results import Reply, refusal
from medray.serving.sources import Reference, parse_reference
from medray.serving.traffic import Asked, Traffic

__all__ = ["Clerk"]

logger = logging.getLogger("ray.serve")
AT_ONCE = 4
LOOK_S = 2.0
"""How often jobs of gateways that died are looked for."""
KEEP_S = 1.0
"""How often a lease is renewed and progress told."""
PURGE_S = 600.0


class Clerk:
    """Takes jobs from the docket to the desk and their answers back.

    Args:
        docket: Where jobs are.
        traffic: Who has them answered.
        keep_answers_s: Seconds after which an answer is deleted.
    """

    def __init__(self, docket: Docket, traffic: Traffic, keep_answers_s: float) -> None:
        self._docket = docket
        self._traffic = traffic
        self._keep_answers_s = keep_answers_s
        self._new = asyncio.Event()
        self._working: set[asyncio.Task[None]] = set()
        self._purged = 0.0

    async def take(
        self, owner: str, version: ModelVersion, task: str, accept: str, body: bytes, *, referred: bool, wish: str = NAMED
    ) -> Job:
        """Take a job in, to be worked on as soon as may be; see `Docket.add`."""
        words = (owner, str(version), task, accept, body)
        job = await asyncio.to_thread(self._docket.add, *words, referred=referred, wish=wish)
        self._new.set()
        return job

    async def run(self) -> None:
        """Work until cancelled; what isn't finished then is given back."""
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._new.wait(), LOOK_S)
                self._new.clear()
                try:
                    await self._take_on()
                except MedrayError as error:  # the database is away: it is asked again in a moment
                    logger.warning("jobs wait: %s", error)
        finally:
            for work in self._working:
                work.cancel()
            await asyncio.gather(*self._working, return_exceptions=True)

    async def _take_on(self) -> None:
        if time.monotonic() - self._purged > PURGE_S or not self._purged:
            self._purged = time.monotonic()
            await asyncio.to_thread(self._docket.purge, older_s=self._keep_answers_s)
        while len(self._working) < AT_ONCE and (job := await asyncio.to_thread(self._docket.claim)):
            work = asyncio.create_task(self._work(job))
            self._working.add(work)
            work.add_done_callback(self._done)

    def _done(self, work: asyncio.Task[None]) -> None:
        self._working.discard(work)
        self._new.set()
        if not work.cancelled() and (error := work.exception()):
            logger.warning("a job is left for later (%s)", type(error).__name__)

    async def _work(self, job: Job) -> None:
        """Have one job answered, and renew its lease meanwhile."""
        share = 0.0

        def tell(done: float) -> None:
            nonlocal share
            share = done

        answering = asyncio.create_task(self._answer(job, tell))
        try:
            while not answering.done():
                await asyncio.wait([answering], timeout=KEEP_S)
                if not answering.done() and not await self._keep(job, share):
                    return
            reply = answering.result()
        except asyncio.CancelledError:
            await asyncio.shield(asyncio.to_thread(self._docket.release, job.id))
            raise
        finally:
            answering.cancel()
        who = reply.headers.get("X-Medray-Model", "")
        await asyncio.to_thread(self._docket.finish, job.id, reply.status, reply.media_type, reply.body, who)

    async def _keep(self, job: Job, share: float) -> bool:
        """Renew a lease; tell whether the job is still to be done."""
        try:
            return await asyncio.to_thread(self._docket.keep, job.id, share)
        except MedrayError as error:  # the database is away; the lease lasts longer than a moment
            logger.warning("a job's lease isn't renewed: %s", error)
            return True

    async def _answer(self, job: Job, tell: Callable[[float], None]) -> Reply:
        try:
            body = await asyncio.to_thread(self._docket.input, job.id)
            wanted = await asyncio.to_thread(_wanted, job, body)
            version, asked = ModelVersion.parse(job.model), Asked(job.task, wanted, job.accept)
            key = "" if job.wish == NAMED else job.id
            return await self._traffic.follow(version, asked, tell, key=key, wish=job.wish)
        except (MedrayError, Refusal) as error:
            return refusal(error)


def _wanted(job: Job, body: bytes) -> bytes | Reference | Patient:
    """Return what a job is about."""
    if job.task == TRACKING:
        return Patient.unpacked(body)
    return parse_reference(body) if job.referred else body
