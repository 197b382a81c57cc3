"""What is known of models' rollouts: looked up behind requests, so that nobody waits for the registry."""

from __future__ import annotations

import asyncio
import logging
import time
from contextvars import Context
from dataclasses import dataclass, replace

from medray.errors import MedrayError
from medray.registry.rollout import Rollout
from medray.registry.version import ModelVersion
from medray.serving.desk import Desk

__all__ = ["Rollouts"]

logger = logging.getLogger("ray.serve")


@dataclass(slots=True, eq=False)
class _Known:
    """What is known of a model's rollout."""

    rollout: Rollout
    at: float
    check: asyncio.Task[None] | None = None


class Rollouts:
    """Knows which versions of models get which requests.

    Args:
        desk: Loads versions before they get any.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._known: dict[str, _Known] = {}

    async def of(self, version: ModelVersion) -> Rollout | None:
        """Return a model's rollout: what was known a moment ago, while it is looked up again behind the request.

        Args:
            version: Its champion now.
        """
        known = self._known.get(version.name)
        if known is None:
            rollout = await self._look_up(version.name)
            if rollout is None:
                return None
            known = self._known.setdefault(version.name, _Known(rollout, time.monotonic()))
        elif time.monotonic() - known.at > self._desk.limits.refresh_s and (known.check is None or known.check.done()):
            known.check = asyncio.create_task(self._look_again(version.name, known), context=Context())
        found = replace(known.rollout, champion=version)
        promoted = found.challenger is not None and found.challenger.version == version.version
        return replace(found, challenger=None, canary=None) if promoted else found

    def forget(self, name: str) -> None:
        """Look a model's rollout up before the next request is answered."""
        self._known.pop(name, None)

    async def _look_again(self, name: str, known: _Known) -> None:
        found = await self._look_up(name)
        if found is not None:
            for version in (found.challenger, found.shadow):
                if version is not None and version not in (known.rollout.challenger, known.rollout.shadow):
                    await self._warm(version)
            known.rollout = found
        known.at = time.monotonic()

    async def _look_up(self, name: str) -> Rollout | None:
        try:
            return await asyncio.to_thread(self._desk.registry.rollout, name)
        except Exception as error:  # noqa: BLE001 - of a registry that doesn't answer the last word stands
            logger.warning("the rollout of %s isn't known (%s)", name, type(error).__name__)
            return None

    async def _warm(self, version: ModelVersion) -> None:
        try:
            await self._desk.warm(version)
        except MedrayError as error:
            logger.warning("%s isn't loaded: %s", version, error)
        except Exception as error:  # noqa: BLE001 - one that can't be loaded must not keep others from being taken back
            logger.warning("%s isn't loaded (%s)", version, type(error).__name__)
