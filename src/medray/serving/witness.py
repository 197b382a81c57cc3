"""Keeps a record of each prediction of a replica, without anybody waiting for it.

What is known when the answer is there is written before the answer goes out. What takes longer, such as the hash of a large
image, comes after it, in a thread of its own that looks at images for at most a fivehundredth of the time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from medray.cohort.manifest import SeriesRow
from medray.errors import MedrayError
from medray.imaging.volume import Volume
from medray.inference.prediction import Prediction
from medray.inference.recorded import kept_pseudonyms, nameless, of_row, sealed, whose
from medray.inference.seen import digest_of, input_digest, output_numbers, plan_digest, seen_in
from medray.inference.workbench import workbench
from medray.models.runtime import Runtime
from medray.monitoring.journal import Journal
from medray.monitoring.metrics import Meters
from medray.monitoring.record import PredictionRecord
from medray.preprocessing.plan import Plan
from medray.registry.version import ModelVersion
from medray.serving.results import Reply
from medray.serving.sources import Reference
from medray.serving.ticket import Ticket

__all__ = ["Told", "Witness", "refused"]

LOOKING = 0.002
"""Share of the time that may be spent on looking at images: of what comes faster only some are looked at."""
AHEAD_S = 0.5
"""So much of that time may be spent ahead, after a pause."""
LATER_S = 0.05
"""After an answer its record is completed: who has just been answered often asks again at once, and is let go first."""
PENDING_BYTES = 256 << 20
"""Of images whose records aren't complete; more wait before their answers go out."""

logger = logging.getLogger("ray.serve")


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """A prediction, as far as its record goes.

    Attributes:
        ticket: Whose.
        version: ``name/version``.
        task: What was asked.
        files: The image's.
        latencies: Stage to milliseconds.
        status: HTTP's.
        reason: Of a refusal.
        volume: The image; None where it couldn't be read.
        prediction: What the model said; None for a refusal.
        plan: The model's; None of a MONAI Bundle.
        together: How many images went through the network at once.
        agreement: Of a copy; see `PredictionRecord`.
        reference: Where the image was, if the request said so.
    """

    ticket: Ticket
    version: str
    task: str
    files: Sequence[bytes] = ()
    latencies: Mapping[str, float] = field(default_factory=dict)
    status: int = 200
    reason: str = ""
    volume: Volume | None = None
    prediction: Prediction | None = None
    plan: Plan | None = None
    together: int = 1
    agreement: Mapping[str, float] = field(default_factory=dict)
    reference: Reference | None = None


class Witness:
    """Writes records and counts metrics.

    Args:
        journal: Where records go.
        runtime: What runs networks here.
        meters: Count.
        row_of: Returns an image of the cohort that is shown.
        every_s: How often records go from the node to the store.
    """

    def __init__(
        self, journal: Journal, runtime: Runtime, meters: Meters, row_of: Callable[[str], SeriesRow], every_s: float = 30
    ) -> None:
        self._journal = journal
        self._workbench = workbench(runtime)
        self._threads = runtime.threads
        self._meters = meters
        self._row = row_of
        self._every_s = every_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="witness")
        self._names = kept_pseudonyms()
        self._plans: dict[str, str] = {}
        self._pending = 0
        self._freed = asyncio.Event()
        self._credit, self._since = AHEAD_S, time.monotonic()

    async def tell(self, told: Told) -> None:
        """Write what is known of a prediction, and have the rest follow; waits only where much is pending.

        A disk that is full or broken stops no answer: it is counted, and logged.
        """
        record = self._record(told)
        try:
            self._journal.add(record)
        except OSError as error:
            self._fail(error)
            return
        size = sum(map(len, told.files)) + (told.volume.voxels.nbytes if told.volume is not None else 0)
        while self._pending and self._pending + size > PENDING_BYTES:
            self._freed.clear()
            await self._freed.wait()
        self._pending += size
        rest = asyncio.get_running_loop().run_in_executor(
            self._thread, self._complete, told, record, time.monotonic() + LATER_S
        )
        rest.add_done_callback(lambda _: self._done(size))

    async def run(self, waiting: Callable[[], int]) -> None:
        """Move records to the store every now and then, until cancelled; ``waiting`` says how many requests wait."""
        while True:
            await asyncio.sleep(self._every_s)
            self._meters.waiting(waiting(), self._journal.lines)
            try:
                await asyncio.to_thread(self._journal.move)
            except (MedrayError, OSError) as error:  # the store is away: it is tried again in a moment
                self._fail(error)

    def close(self) -> None:
        """Complete what is pending and move it; for the end of a process."""
        self._thread.shutdown(wait=True)
        try:
            self._journal.move()
        except (MedrayError, OSError) as error:
            self._fail(error)

    def _done(self, size: int) -> None:
        self._pending -= size
        self._freed.set()

    def _record(self, told: Told) -> PredictionRecord:
        version = ModelVersion.parse(told.version)
        return PredictionRecord(
            id=told.ticket.id,
            at=datetime.now(UTC),
            model=version.name,
            version=version.version,
            task=told.task,
            role=told.ticket.role,
            beside=told.ticket.beside,
            status=told.status,
            reason=told.reason,
            input_bytes=sum(map(len, told.files)),
            **self._workbench,
            threads=self._threads,
            together=told.together,
            numbers=output_numbers(told.prediction) if told.prediction else {},
            latencies=dict(told.latencies),
            agreement=dict(told.agreement),
        )

    def _complete(self, told: Told, record: PredictionRecord, due: float) -> None:
        """Add what takes longer, when it is due; in the witness's thread."""
        time.sleep(max(0.0, due - time.monotonic()))
        try:
            facts: dict[str, Any] = {"input_sha256": input_digest(told.files), **self._whose(told)}
            facts["plan_sha256"] = self._plan(told)
            if told.prediction is not None:
                facts["output_sha256"] = digest_of(told.prediction)
                if told.prediction.embedding is not None:
                    facts["embedding"] = np.round(told.prediction.embedding.astype(np.float64), 6).tolist()
                facts |= self._looked(told, facts.get("groups", {}))
            self._journal.complete(record.id, facts)
            self._meters.count(replace(record, **{**facts, "embedding": ()}))
        except Exception as error:  # noqa: BLE001 - a record that isn't complete stops nobody
            self._fail(error)

    def _plan(self, told: Told) -> str:
        if told.plan is None:
            return ""
        if told.version not in self._plans:
            self._plans[told.version] = plan_digest(told.plan)
        return self._plans[told.version]

    def _looked(self, told: Told, groups: Mapping[str, str]) -> dict[str, Any]:
        """Look at the image, if there is time for it."""
        now = time.monotonic()
        self._credit = min(AHEAD_S, self._credit + LOOKING * (now - self._since))
        self._since = now
        if self._credit <= 0 or told.volume is None or told.prediction is None:
            return {}
        started = time.thread_time()
        seen = seen_in(told.volume, told.prediction)
        self._credit -= time.thread_time() - started
        return {"numbers": dict(seen.numbers), "groups": {**nameless(seen.groups, self._names), **groups}}

    def _whose(self, told: Told) -> dict[str, Any]:
        """Return pseudonyms of whom the image shows, as far as it says and there is a key."""
        said, names = told.reference, self._names
        if said and said.image:  # by the cohort's own name, whatever the request called it
            return of_row(self._row(said.image))
        if names is None:
            return {}
        where = {key: value for key, value in asdict(said).items() if value} if said else {}
        return {**({"reference": sealed(where, names)} if where else {}), **whose(told.files, names)}

    def _fail(self, error: BaseException) -> None:
        logger.warning("a prediction's record isn't complete (%s)", type(error).__name__)
        self._meters.failed()


def refused(reply: Reply, ticket: Ticket, version: str, task: str) -> Told:
    """Return what there is to tell of a refusal."""
    return Told(ticket, version, task, latencies=reply.timing, status=reply.status, reason=reply.title)
