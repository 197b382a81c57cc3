"""What a reference means now: aliases are followed while requests go on, and no request waits for that."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection
from contextvars import Context
from dataclasses import dataclass

from medray.errors import MedrayError, NotFoundError
from medray.registry.registry import REFERENCE, Registry
from medray.registry.version import ModelVersion

__all__ = ["References"]

logger = logging.getLogger("ray.serve")


@dataclass(slots=True, eq=False)
class _Known:
    version: ModelVersion
    at: float
    check: asyncio.Task[None] | None = None


class References:
    """Looks references up in a registry, and again once they are older than a moment: behind the request that finds it so.

    A reference that has moved is answered with its former version until the new one is loaded. Of a registry that doesn't
    answer the last word stands.

    Args:
        registry: Where to look.
        names: Models that may be asked for; all where it is empty.
        refresh_s: Seconds for which an answer is taken to hold.
        warm: Loads a version somewhere.
    """

    def __init__(
        self,
        registry: Registry,
        names: Collection[str],
        refresh_s: float,
        warm: Callable[[ModelVersion], Awaitable[object]],
    ) -> None:
        self._registry = registry
        self._names = frozenset(names)
        self._refresh_s = refresh_s
        self._warm = warm
        self._known: dict[str, _Known] = {}

    async def resolve(self, reference: str) -> ModelVersion:
        """Return the version that a reference means.

        Raises:
            NotFoundError: If there is no such model here.
        """
        match = REFERENCE.fullmatch(reference)
        if match is None or (self._names and match["name"] not in self._names):
            served = ", ".join(sorted(self._names)) or "what medray models list shows"
            raise NotFoundError(f"no model {reference[:80]!r} is served here; there is {served}")
        known = self._known.get(reference)
        if known is None:
            version = await asyncio.to_thread(self._registry.resolve, reference)
            known = self._known.setdefault(reference, _Known(version, time.monotonic()))
        elif time.monotonic() - known.at > self._refresh_s and (known.check is None or known.check.done()):
            # In a context of its own: what it asks of the pool is no part of the request that happens to start it.
            known.check = asyncio.create_task(self._look_again(reference, known), context=Context())
        return known.version

    async def _look_again(self, reference: str, known: _Known) -> None:
        try:
            found = await asyncio.to_thread(self._registry.resolve, reference)
            if (found.name, found.version) != (known.version.name, known.version.version):
                await self._warm(found)
            known.version = found
        except NotFoundError:
            self._known.pop(reference, None)
        except MedrayError as error:
            logger.warning("%s stays at %s: %s", reference, known.version, error)
        except Exception as error:  # noqa: BLE001 - an outage of the registry or of the pool; tried again in a moment
            logger.warning("%s stays at %s (%s)", reference, known.version, type(error).__name__)
        finally:
            known.at = time.monotonic()
