"""Looks at drift of what is served, every now and then, and hands what it finds to Prometheus."""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime

from medray.errors import MedrayError, NotFoundError
from medray.inference.check import compared_with_reference, studies
from medray.monitoring.alarm import Watch
from medray.monitoring.metrics import Meters
from medray.monitoring.records import records_root
from medray.serving.desk import Desk

__all__ = ["Sentinel"]

logger = logging.getLogger("ray.serve")


class Sentinel:
    """Watches an endpoint's models.

    Args:
        desk: Knows them, and where they are.
        records: URI of where their predictions are recorded.
        every_s: How often it looks.
        meters: Where it tells.
    """

    def __init__(self, desk: Desk, records: str, every_s: float, meters: Meters) -> None:
        self._desk = desk
        self._registry = desk.registry
        self._records = records_root(records)
        self._every_s = every_s
        self._meters = meters
        self._seen: dict[str, datetime] = {}

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(self._every_s)
            for version in sorted(await self._desk.served()):
                await self._try(version)

    async def _try(self, version: str) -> None:
        try:
            await asyncio.to_thread(self._look, version)
        except MedrayError as error:
            logger.warning("drift of %s isn't known: %s", version, error)
        except Exception as error:  # noqa: BLE001 - an outage of the registry or the store; tried again in a moment
            logger.warning("drift of %s isn't known (%s)", version, type(error).__name__)

    def _look(self, version: str) -> None:
        watch = Watch()
        try:
            read = studies(version, self._records, watch, registry=self._registry)
        except NotFoundError:  # without a reference there is nothing to tell
            return
        since = self._seen.get(version)
        if sum(since is None or one.at > since for one in read.last) < watch.every:
            return  # the rate of false alarms is that of a look after so many
        self._seen[version] = read.last[-1].at
        found, known = compared_with_reference(read, watch), read.version
        worst = found.outlook.whole.get(max(found.outlook.whole, default=0))
        families = dict(worst.families) if worst else {}
        self._meters.drift(known.name, known.version, families, alarm=found.outlook.alarm, studies=found.studies)
