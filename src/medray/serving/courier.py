"""Takes series that came in to the models that they are for, and what these say back to the PACS: once, through crashes.

A study that nothing was added to for a while is read for what its series say of themselves; each series gets an order for each
model whose rule fits. An order is done when the PACS has the results. Their UIDs follow from the series and the model version,
so that what is sent again after a crash is the same object, which a PACS has once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
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
from medray.serving.results import OBJECTS
from medray.serving.rules import models_for

if TYPE_CHECKING:
    from medray.pacs.dicomweb import DicomwebPacs
    from medray.pacs.spool import Spool

__all__ = ["Courier", "pacs_of", "spool_of"]

logger = logging.getLogger("ray.serve")
LOOK_S = 1.0
KEEP_S = 20.0
EXPIRE_S = 600.0
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
        desk: Who has images answered; its limits say which models series are for.
        pacs: Where results go.
        ledger: Where events go.
    """

    def __init__(self, spool: Spool, book: OrderBook, desk: Desk, pacs: DicomwebPacs, ledger: Ledger) -> None:
        self._spool = spool
        self._book = book
        self._desk = desk
        self._pacs = pacs
        self._ledger = ledger
        self._expired = 0.0

    async def run(self) -> None:
        """Work until cancelled; what isn't finished then is given back."""
        await asyncio.to_thread(self._spool.sweep)
        while True:
            try:
                await self._plan()
                while order := await asyncio.to_thread(self._book.claim):
                    await self._do(order)
                await self._tidy()
            except MedrayError as error:  # the database, the registry or the disk is away: tried again in a moment
                logger.warning("series wait: %s", error)
            except Exception as error:  # noqa: BLE001 - one strange study must not end the work on all others
                logger.warning("series wait (%s)", type(error).__name__)
            await asyncio.sleep(LOOK_S)

    async def _plan(self) -> None:
        """Make orders for the studies that have settled."""
        await asyncio.to_thread(lambda: self._spool.settle(quiet_s=self._desk.limits.quiet_s))
        for study in await asyncio.to_thread(self._spool.untaken):
            for series, models in (await asyncio.to_thread(self._wanted, study)).items():
                for reference in models:
                    version = await self._desk.resolve(reference)
                    await asyncio.to_thread(self._book.add, study.name, series, str(version))
            await asyncio.to_thread(self._spool.mark_taken, [study])

    def _wanted(self, study: Path) -> dict[str, list[str]]:
        """Return which models each series of a study is for."""
        from medray.formats.dicom_header import read_dicom_file_header, series_facts  # noqa: PLC0415 - without rules, no pydicom

        wanted: dict[str, list[str]] = {}
        for folder in sorted(path for path in study.iterdir() if path.is_dir()):
            files = sorted(folder.glob("*.dcm"))
            with contextlib.suppress(ImageError):
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
            outcome = work.result()
        except asyncio.CancelledError:
            work.cancel()
            await asyncio.shield(asyncio.to_thread(self._book.release, order))
            raise
        except MedrayError as error:
            await asyncio.to_thread(self._book.postpone, order, str(error)[:300])
            return
        await self._ledger.write(Event("result.store", order.model, outcome or "ok", f"series {order.series}", ACTOR))
        await asyncio.to_thread(self._book.finish, order, "failed" if outcome else "stored", outcome)

    async def _store(self, order: Order) -> str:
        """Have a series answered and the answer stored; return why that can never be, or nothing.

        Raises:
            MedrayError: If it may be another time.
        """
        name, _, version = order.model.partition("/")
        task = (await self._desk.describe(order.model))["task"]
        files = await asyncio.to_thread(lambda: [path.read_bytes() for path in self._files(order)])
        packed = await asyncio.to_thread(zip_of, files)
        reply = await self._desk.follow(ModelVersion(name, int(version), (), ""), task, packed, OBJECTS, lambda share: None)
        if reply.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise StorageError("the models are busy or down")
        if reply.status != HTTPStatus.OK:
            return reply.refused
        await asyncio.to_thread(self._pacs.store, reply.body, reply.media_type)
        return ""

    def _files(self, order: Order) -> list[Path]:
        return sorted((self._spool.settled / order.study / order.series).glob("*.dcm"))

    async def _tidy(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._expired > EXPIRE_S or not self._expired:
            self._expired = now
            busy = await asyncio.to_thread(self._book.open_studies)
            await asyncio.to_thread(lambda: self._spool.expire(older_s=self._desk.limits.keep_answers_s, but=busy))
