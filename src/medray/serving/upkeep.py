"""What an endpoint does on the side: it says what it serves, so that nobody deletes it, and deletes old records."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta

from medray.errors import MedrayError
from medray.monitoring.records import join_days, purge_records, records_root
from medray.registry.served import note_served
from medray.serving.desk import Desk

__all__ = ["Upkeep"]

NOTE_S = 60.0
"""How often it is said what is served: see `medray.registry.served`."""
TIDY_S = 6 * 3600.0

logger = logging.getLogger("ray.serve")


class Upkeep:
    """Looks after what outlives requests.

    Args:
        desk: Knows what is served, and where records are and for how long.
        note_s: How often it says what is served.
        tidy_s: How often it looks for records that are too old, and for days of many files.
    """

    def __init__(self, desk: Desk, note_s: float = NOTE_S, tidy_s: float = TIDY_S) -> None:
        self._desk = desk
        self._note_s = note_s
        self._tidy_s = tidy_s

    async def run(self) -> None:
        """Go on until cancelled."""
        tidied = -self._tidy_s
        while True:
            await asyncio.sleep(self._note_s)
            await self._tried(self._note(), "what is served isn't told")
            if time.monotonic() - tidied >= self._tidy_s:
                tidied = time.monotonic()
                await self._tried(asyncio.to_thread(self._tidy), "records aren't tidied")

    async def _note(self) -> None:
        served = await self._desk.served()
        await asyncio.to_thread(note_served, self._desk.registry.uri, served)

    def _tidy(self) -> None:
        root, days = records_root(self._desk.limits.records), self._desk.limits.records_days
        if days:
            purge_records(root, (datetime.now(UTC) - timedelta(days=days)).date())
        join_days(root)

    async def _tried(self, work: Awaitable[None], why_not: str) -> None:
        try:
            await work
        except MedrayError as error:
            logger.warning("%s: %s", why_not, error)
        except Exception as error:  # noqa: BLE001 - an outage of a store or the database; tried again in a while
            logger.warning("%s (%s)", why_not, type(error).__name__)
