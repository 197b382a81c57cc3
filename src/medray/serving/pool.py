"""The pool: replicas that hold any of the registry's models, as their memory allows, and answer for them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from http import HTTPStatus
from typing import Any

import torch
from ray import serve
from ray.serve.config import RequestRouterConfig

from medray.errors import ImageError, ResourceError
from medray.formats.image import read_image_files
from medray.formats.nrrd import write_nrrd
from medray.imaging.volume import Volume
from medray.inference.bundled import load_predictor
from medray.inference.prediction import Prediction
from medray.models.runtime import EXACT, Runtime
from medray.monitoring.journal import Journal
from medray.monitoring.metrics import Meters
from medray.monitoring.records import records_root
from medray.registry.registry import Registry
from medray.serving.batcher import Batcher
from medray.serving.blame import by_the_model
from medray.serving.copies import compared
from medray.serving.followup import FollowUp
from medray.serving.intake import Intake
from medray.serving.parcels import Wanted
from medray.serving.patient import Patient
from medray.serving.progress import Progress
from medray.serving.results import NRRD, Reply, answer, other_task, refusal
from medray.serving.room import Room
from medray.serving.router import WarmFirst
from medray.serving.shelf import Shelf
from medray.serving.sources import Reference, Sources
from medray.serving.stages import Stages
from medray.serving.ticket import Ticket
from medray.serving.together import Together
from medray.serving.witness import Told, Witness, refused

__all__ = ["Pool", "PoolConfig"]

TELL_S = 0.5
"""How often progress is told."""
STUCK_S = 600.0
"""A batch that runs longer than this has its process replaced."""
HANDS = 8
"""Threads that bring networks' answers onto their images' grids."""


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """What each replica has.

    Attributes:
        registry: MLflow tracking URI.
        threads: Cores that networks may use.
        models_mb: Memory for loaded models.
        work_mb: Memory for images in work, and as much again for what networks say of them.
        batch_voxels: Images of several callers go through a network together up to so many voxels.
        sources: URIs below which references may be read.
        pacs: A DICOMweb service for references.
        cohort: The cohort that is shown.
        runtime: What runs networks.
        record: Whether predictions are recorded and counted.
        records: URI of where; below ``MEDRAY_HOME`` where it is empty.
        records_s: Seconds after which records go there from this node's disk.
        most_waiting: Requests that may wait for memory.
    """

    registry: str
    threads: int
    models_mb: int
    work_mb: int
    batch_voxels: int
    sources: tuple[str, ...] = ()
    pacs: str = ""
    cohort: str = ""
    runtime: Runtime = EXACT
    record: bool = True
    records: str = ""
    records_s: float = 30
    most_waiting: int = 64


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What is asked, and why."""

    version: str
    task: str
    media_type: str
    ticket: Ticket


@serve.deployment(
    max_ongoing_requests=64,
    health_check_period_s=10,
    request_router_config=RequestRouterConfig(request_router_class=WarmFirst, request_routing_stats_period_s=1),
)
class Pool:
    """One replica: models on a shelf, one thread for networks, room for images.

    Args:
        settings: What it has.
    """

    def __init__(self, settings: PoolConfig) -> None:
        torch.set_num_threads(1)  # of every thread but the batcher's
        load = partial(load_predictor, runtime=settings.runtime)
        self._shelf = Shelf(Registry(settings.registry).fetch, load, settings.models_mb << 20)
        self._batcher = Batcher(settings.batch_voxels, settings.threads)
        self._hands = ThreadPoolExecutor(HANDS, initializer=partial(torch.set_num_threads, settings.threads))
        self._room = Room(settings.work_mb << 20, settings.most_waiting)
        sources = Sources(settings.sources, settings.pacs, settings.cohort)
        self._intake = Intake(sources, self._room, settings.work_mb << 20)
        self._maps = Room(settings.work_mb << 20, settings.most_waiting)
        journal = Journal(records_root(settings.records))
        self._witness = Witness(journal, settings.runtime, Meters(), sources.row, settings.records_s)
        self._records = settings.record
        self._moving: asyncio.Task[None] | None = None
        self._together = Together(self._shelf, self._batcher, self._hands, self._room, self._maps, self._tell)
        self._follow_up = FollowUp(self._shelf, self._intake.scans, self._predicted, self._by_hand, self._tell)
        self._answered = 0.0
        self._last: str | None = None

    def record_routing_stats(self) -> dict[str, Any]:
        """Tell Serve which models are here; see `WarmFirst`."""
        return {"models": self._shelf.loaded}

    async def check_health(self) -> None:
        """Run the last used model on an empty image, unless it has answered since the last check; called by Serve.

        Raises:
            ResourceError: If a network is stuck, or says what is no number.
        """
        if self._records:
            self._move()
        if self._batcher.busy_seconds > STUCK_S:
            raise ResourceError(f"a network has been running for {STUCK_S:.0f} s")
        if self._last is None or self._batcher.busy_seconds or time.monotonic() - self._answered < 10:
            return
        if self._last in self._shelf.loaded:
            async with self._shelf.lend(self._last) as predictor:
                await self._batcher.beside(predictor.probe)

    async def warm(self, version: str) -> str:
        """Load a model."""
        async with self._shelf.lend(version):
            self._last = version
            return version

    async def answer(
        self,
        version: str,
        task: str,
        image: bytes | Reference,
        media_type: str,
        ticket: Ticket | None = None,
        progress: Progress | None = None,
    ) -> Reply:
        """Read an image, predict, and encode what was asked for; never raises for what is in the image.

        Args:
            version: ``name/version``.
            task: What is asked for: ``segmentation``, ``diagnosis`` or ``detection``.
            image: The image's file, or where it is.
            media_type: Of the answer.
            ticket: Why it is asked.
            progress: Told how far it is.
        """
        wanted = _Wanted(version, task, media_type, ticket or Ticket())
        reply = await _told(self._answer(wanted, image, progress or Progress()))
        if reply.status != HTTPStatus.OK:
            await self._tell(refused(reply, wanted.ticket, version, task))
        return reply

    async def answer_all(self, version: str, wanted: Sequence[Wanted]) -> list[Reply]:
        """Do what `answer` does for several callers' small images at once."""
        try:
            found = await self._together.answer(version, wanted)
        except ImageError:  # there is too little room for all of them together
            found = [None] * len(wanted)
        except Exception as error:  # noqa: BLE001 - whatever it is, each is to be told
            return [refusal(error)] * len(wanted)
        if any(reply is not None and reply.status == HTTPStatus.OK for reply in found):
            self._last, self._answered = version, time.monotonic()
        alone = [one for one, reply in zip(wanted, found, strict=True) if reply is None]
        answers = (self.answer(version, one.task, one.image, one.media_type, one.ticket) for one in alone)
        rest = iter(await asyncio.gather(*answers))
        return [next(rest) if reply is None else reply for reply in found]

    async def view(self, image: bytes | Reference) -> Reply:
        """Read an image and give it as NRRD; raises as little as `answer` does."""
        return await _told(self._view(image))

    async def answer_slowly(
        self,
        version: str,
        task: str,
        wanted: bytes | Reference | Patient,
        media_type: str,
        ticket: Ticket | None = None,
    ) -> AsyncIterator[float | Reply]:
        """Do what `answer` or, of a patient, `track` does; yields how far it is, 0 to 1, and the reply last."""
        if isinstance(wanted, Patient):
            progress = Progress(len(wanted.scans))
            answering = asyncio.create_task(self.track(version, wanted, media_type, progress))
        else:
            progress = Progress()
            answering = asyncio.create_task(self.answer(version, task, wanted, media_type, ticket, progress))
        try:
            while not answering.done():
                await asyncio.wait([answering], timeout=TELL_S)
                yield progress.share
            yield answering.result()
        finally:
            answering.cancel()

    async def _view(self, image: bytes | Reference) -> Reply:
        stages = Stages()
        async with AsyncExitStack() as stack:
            files = await self._intake.files(image, stages, stack)
            volume = await asyncio.to_thread(read_image_files, files)
            return Reply(HTTPStatus.OK, NRRD, await asyncio.to_thread(write_nrrd, volume))

    async def _answer(self, wanted: _Wanted, image: bytes | Reference, progress: Progress) -> Reply:
        stages = Stages()
        async with AsyncExitStack() as stack:
            files = await self._intake.files(image, stages, stack)
            predictor = await stack.enter_async_context(self._shelf.lend(wanted.version))
            stages.end("load")
            if predictor.task != wanted.task:
                return other_task(wanted.version, predictor.task, wanted.task)
            volume = await asyncio.to_thread(read_image_files, files)
            stages.end("decode")
            prediction, together = await self._predicted(predictor, volume, stages, stack, progress)
            form = (wanted.version, wanted.media_type, stages, files, wanted.ticket.id)
            reply: Reply = await self._by_hand(partial(answer, prediction, *form))
            reply = replace(reply, together=together)
            reply, agrees = await self._by_hand(partial(compared, prediction, reply, wanted.ticket))
            self._last, self._answered = wanted.version, time.monotonic()
            facts = Told(wanted.ticket, wanted.version, wanted.task, files, reply.timing, volume=volume, prediction=prediction)
            said = None if isinstance(image, bytes) else image
            plan = getattr(predictor, "plan", None)
            await self._tell(replace(facts, plan=plan, together=together, reference=said, agreement=agrees))
            return reply

    async def _tell(self, told: Told) -> None:
        """Record a prediction."""
        if not self._records:
            return
        self._move()
        await self._witness.tell(told)

    def _move(self) -> None:
        """Have records moved to the store from now on; the first time that the replica's loop runs."""
        if self._moving is None or self._moving.done():
            self._moving = asyncio.create_task(self._witness.run(lambda: self._room.waiting))

    def __del__(self) -> None:
        """Move what is left; called by Serve when the replica ends."""
        witness = getattr(self, "_witness", None)
        if witness is not None:
            witness.close()

    async def _predicted(
        self, predictor: Any, volume: Volume, stages: Stages, stack: AsyncExitStack, progress: Progress
    ) -> tuple[Prediction, int]:
        """Run a network on an image, and say with how many it went; what it needs is held until the stack ends."""
        with by_the_model():
            prepared = await self._batcher.beside(predictor.prepare, volume)
            stages.end("preprocess")
            await stack.enter_async_context(self._maps.hold(predictor.map_bytes(prepared)))
            turn = await stack.enter_async_context(self._batcher.run(predictor, prepared))
            stages.end("network")
            stages.part("network", "queue", turn.waited_s)
            blocks = progress.watched(turn.blocks)
            prediction: Prediction = await self._by_hand(partial(predictor.finish, blocks, volume, prepared))
            stages.end("postprocess")
            stages["network"] += prediction.latencies["network"]  # it went on while the first blocks were decoded
            stages["postprocess"] -= prediction.latencies["network"]
        return prediction, turn.together

    async def _by_hand(self, work: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._hands, work)

    async def track(self, version: str, patient: Patient, media_type: str, progress: Progress | None = None) -> Reply:
        """Tell what changed between a patient's scans; raises as little as `answer` does.

        Args:
            version: ``name/version`` of a segmentation or a progression.
            patient: Their scans.
            media_type: One of `medray.serving.patient.HISTORIES`.
            progress: Told how far it is.
        """
        return await _told(self._track(version, patient, media_type, progress or Progress()))

    async def _track(self, version: str, patient: Patient, media_type: str, progress: Progress) -> Reply:
        reply = await self._follow_up.answer(version, patient, media_type, progress)
        self._last, self._answered = version, time.monotonic()
        return reply


async def _told(answering: Awaitable[Reply]) -> Reply:
    """Wait for an answer; what is wrong with an image is one, too."""
    try:
        return await answering
    except Exception as error:  # noqa: BLE001 - a strange file must get an answer
        return refusal(error)
