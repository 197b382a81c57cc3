"""Takes series that came in to the models that they are for, and what these say back to the PACS: once, through crashes.

A study that nothing was added to for a while is read for what its series say of themselves; each series gets an order for each
model whose rule fits. An order is done when the PACS has the results. Their UIDs follow from the series and the model version,
so that what is sent again after a crash is the same object, which a PACS has once.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

from medray import config
from medray.audit import Event
from medray.errors import ImageError, MedrayError, StorageError
from medray.registry.version import ModelVersion
from medray.serving.desk import Desk, Limits
from medray.serving.form import zip_of
from medray.serving.guard import Ledger
from medray.serving.orders import Order, OrderBook
from medray.serving.results import OBJECTS, Reply
from medray.serving.rules import models_for
from medray.serving.traffic import Asked, Traffic, is_shared

if TYPE_CHECKING:
    from medray.pacs.dicomweb import DicomwebPacs
    from medray.pacs.spool import Spool

__all__ = ["Courier", "pacs_of", "spool_of"]

logger = logging.getLogger("ray.serve")
LOOK_S = 1.0
KEEP_S = 20.0
EXPIRE_S = 600.0
PATIENCE_S = 120.0
"""For which an order waits while models are busy, before another one has its turn."""
MOST_UNSENT = 8
"""Answers that are kept in memory for a PACS that is away."""
ACTOR = "courier"


def pacs_of(limits: Limits) -> DicomwebPacs | None:
    """Return the PACS that an endpoint knows, if there is one."""
    from medray.pacs import dicomweb, remote  # noqa: PLC0415 - who has no PACS does without pydicom

    return dicomweb.DicomwebPacs(remote.parse_address(limits.pacs)) if limits.pacs else None


def spool_of(limits: Limits) -> Spool | None:
    """Return where series come in, if rules say what to do with them."""
    from medray.pacs import spool  # noqa: PLC0415

    return spool.Spool(Path(limits.spool) if limits.spool else config.home() / "serving-spool") if limits.rules else None


class Courier:
    """Works on orders, one at a time: the pool has its own queue, and a network is one.

    Args:
        spool: Where series come in.
        book: The orders.
        desk: Its limits say which models series are for.
        traffic: Who has images answered.
        pacs: Where results go.
        ledger: Where events go.
    """

    def __init__(self, spool: Spool, book: OrderBook, desk: Desk, traffic: Traffic, pacs: DicomwebPacs, ledger: Ledger) -> None:
        self._spool = spool
        self._book = book
        self._desk = desk
        self._traffic = traffic
        self._pacs = pacs
        self._ledger = ledger
        self._expired = 0.0
        self._unsent: dict[int, Reply] = {}

    async def run(self) -> None:
        """Work until cancelled; what isn't finished then is given back."""
        steps = (self._plan, self._work, self._tidy)
        await self._tried(lambda: asyncio.to_thread(self._spool.sweep))
        while True:
            for step in steps:
                await self._tried(step)
            await asyncio.sleep(LOOK_S)

    async def _tried(self, step: Callable[[], Awaitable[None]]) -> None:
        """Do something; what is wrong with it must not end the work on all others, and is tried again in a moment."""
        try:
            await step()
        except MedrayError as error:
            logger.warning("series wait: %s", error)
        except Exception as error:  # noqa: BLE001 - its kind is told, nothing of what it was about
            logger.warning("series wait (%s)", type(error).__name__)

    async def _plan(self) -> None:
        """Make orders for the studies that have settled."""
        await asyncio.to_thread(lambda: self._spool.settle(quiet_s=self._desk.limits.quiet_s))
        for study in await asyncio.to_thread(self._spool.untaken):
            await self._tried(partial(self._plan_for, study))

    async def _plan_for(self, study: Path) -> None:
        for series, models in (await asyncio.to_thread(self._wanted, study)).items():
            content = await asyncio.to_thread(_content, study / series)
            for reference in models:
                version = await self._desk.resolve(reference)
                await asyncio.to_thread(self._book.add, study.name, series, str(version), content, shared=is_shared(reference))
        await asyncio.to_thread(self._spool.mark_taken, [study])

    async def _work(self) -> None:
        while order := await asyncio.to_thread(self._book.claim):
            await self._do(order)

    def _wanted(self, study: Path) -> dict[str, list[str]]:
        """Return which models each series of a study is for."""
        from medray.formats.dicom_header import read_dicom_file_header, series_facts  # noqa: PLC0415 - without rules, no pydicom

        wanted: dict[str, list[str]] = {}
        for folder in sorted(path for path in study.iterdir() if path.is_dir()):
            files = sorted(folder.glob("*.dcm"))
            with contextlib.suppress(ImageError, IndexError):
                first = files[0].read_bytes()
                if read_dicom_file_header(first).kind == "image":
                    wanted[folder.name] = models_for(self._desk.limits.rules, series_facts(first), len(files))
        return wanted

    async def _do(self, order: Order) -> None:
        work = asyncio.create_task(self._store(order))
        try:
            while not work.done():
                await asyncio.wait([work], timeout=KEEP_S)
                if not work.done():
                    await asyncio.to_thread(self._book.keep, order)
            why, who = work.result()
            said = Event("result.store", who, "refused" if why else "ok", f"series {order.series} {why}"[:250], ACTOR)
            await self._ledger.write(said)
            detail = why or (f"by {who}" if who != order.model else "")
            await asyncio.to_thread(self._book.finish, order, "failed" if why else "stored", detail)
        except asyncio.CancelledError:
            await asyncio.shield(asyncio.to_thread(self._book.release, order))
            raise
        except Exception as error:  # noqa: BLE001 - whatever it was, the order is begun again
            why = str(error) if isinstance(error, MedrayError) else f"failed ({type(error).__name__})"
            await asyncio.to_thread(self._book.postpone, order, why[:300])
        finally:
            work.cancel()

    async def _store(self, order: Order) -> tuple[str, str]:
        """Have a series answered and the answer stored; return why that can never be, or nothing, and which version answered.

        Raises:
            MedrayError: If it may be another time.
        """
        reply = self._unsent.pop(order.number, None) or await self._answer(order)
        if reply.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise StorageError("the models are busy or down")
        who = reply.headers.get("X-Medray-Model", order.model)
        if reply.status != HTTPStatus.OK:
            return reply.refused, who
        try:
            await asyncio.to_thread(self._pacs.store, reply.body, reply.media_type)
        except StorageError as error:
            if error.refused:
                return str(error), who
            if len(self._unsent) < MOST_UNSENT:
                self._unsent[order.number] = reply
            raise
        return "", who

    async def _answer(self, order: Order) -> Reply:
        task = (await self._desk.describe(order.model))["task"]
        folder = self._spool.settled / order.study / order.series
        packed = await asyncio.to_thread(lambda: zip_of([path.read_bytes() for path in sorted(folder.glob("*.dcm"))]))
        if not any(folder.glob("*.dcm")):
            raise StorageError("the series isn't in the spool: send it again")
        version = ModelVersion.parse(order.model)
        key = f"{order.series} {order.model}" if order.shared else ""  # begun again, it is answered by the same version
        return await self._traffic.follow(version, Asked(task, packed, OBJECTS), key=key, patience_s=PATIENCE_S)

    async def _tidy(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._expired > EXPIRE_S or not self._expired:
            self._expired = now
            busy = await asyncio.to_thread(self._book.open_studies)
            await asyncio.to_thread(lambda: self._spool.expire(older_s=self._desk.limits.keep_answers_s, but=busy))


def _content(folder: Path) -> str:
    """Return a hash of a series' objects: their names in the spool say what is in them."""
    return hashlib.sha256("\n".join(sorted(path.name for path in folder.glob("*.dcm"))).encode()).hexdigest()[:32]
