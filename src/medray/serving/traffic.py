"""Which version answers a request, which others see it, and what becomes of a challenger that does worse.

A challenger's failure is nobody's: the champion answers then. What is compared with an answer runs after that has gone out.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections import Counter
from collections.abc import Coroutine
from contextvars import Context
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any

from medray.errors import MedrayError
from medray.monitoring.arms import OWN
from medray.registry.registry import REFERENCE, Registry
from medray.registry.rollout import CHALLENGER, CHAMPION, SHADOW, Rollout
from medray.registry.version import ModelVersion
from medray.serving.desk import DIED, Desk
from medray.serving.judge import Judge, Pair
from medray.serving.results import JSON, Reply
from medray.serving.sources import Reference
from medray.serving.ticket import Ticket

__all__ = ["Traffic"]

AT_ONCE = 4
"""Copies that are under way; while there are so many, others are left out: nobody's answer waits for a copy."""
DEATHS = 3
"""Replicas that may end over a shadow's copies before it is taken back."""
ACTOR = "medray canary"

logger = logging.getLogger("ray.serve")


_Trial = tuple[str, str, str]
"""Champion, challenger, and when the trial began."""


@dataclass(slots=True, eq=False)
class _Known:
    """What is known of a model's rollout."""

    rollout: Rollout
    at: float
    check: asyncio.Task[None] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    """What is asked of a model."""

    task: str
    image: bytes | Reference
    media_type: str


class Traffic:
    """Shares requests out among a model's versions.

    Args:
        desk: Has them answered.
        seed: Of the choice which requests a challenger answers; another one each time by default.
    """

    def __init__(self, desk: Desk, seed: int | None = None) -> None:
        self._desk = desk
        self._registry: Registry = desk.registry
        self._known: dict[str, _Known] = {}
        self._judges: dict[_Trial, Judge] = {}
        self._ended: set[_Trial] = set()
        self._copies: set[asyncio.Task[None]] = set()
        self._deaths: Counter[str] = Counter()
        self._draw = random.Random(seed)  # noqa: S311 - which request goes where is no secret

    async def ask(self, reference: str, version: ModelVersion, asked: _Asked, wish: str) -> Reply:
        """Have an image answered by who is to.

        Args:
            reference: As the request has it; only one that names no version, or the champion, is shared out.
            version: What it means now.
            asked: The image, and what of it.
            wish: ``always`` or ``never``: whether the challenger is to answer; anything else leaves it to chance.
        """
        match = REFERENCE.fullmatch(reference)
        shared = match is not None and not match["version"] and match["alias"] in {None, CHAMPION}
        rollout = await self._rollout(version) if shared else None
        if rollout is None or rollout.alone:
            return await self._once(version, asked, Ticket())
        first = rollout.challenger if rollout.challenger and self._chosen(rollout, wish) else version
        others = self._others(rollout, first)
        ticket = Ticket(role="champion" if first is version else "challenger", keep=bool(others))
        reply = await self._once(first, asked, ticket)
        if first is not version and reply.status != HTTPStatus.OK:
            return await self._instead(rollout, asked, ticket, reply)
        if reply.status == HTTPStatus.OK:
            copied = [self._copy(rollout, other, asked, reply, replace(ticket, against=reply.kept)) for other in others]
            if first is not version and not any(copied):
                self._judge(rollout, Pair())  # its failures count, and so must this
        return replace(reply, kept=())

    def asked(self, task: str, image: bytes | Reference, media_type: str) -> _Asked:
        """Put together what is asked."""
        return _Asked(task, image, media_type)

    async def _once(self, version: ModelVersion, asked: _Asked, ticket: Ticket) -> Reply:
        return await self._desk.ask(version, asked.task, asked.image, asked.media_type, ticket)

    async def _instead(self, rollout: Rollout, asked: _Asked, ticket: Ticket, refused: Reply) -> Reply:
        """Have the champion answer what the challenger couldn't."""
        reply = await self._once(rollout.champion, asked, Ticket(beside=ticket.id))
        if reply.status == HTTPStatus.OK and not _busy(refused):
            self._judge(rollout, Pair(failed=True))
        return reply

    def _chosen(self, rollout: Rollout, wish: str) -> bool:
        """Tell whether the challenger is to answer."""
        if wish in {"always", "never"}:
            return wish == "always"
        return rollout.canary is not None and self._draw.random() < rollout.canary.share

    def _others(self, rollout: Rollout, first: ModelVersion) -> list[ModelVersion]:
        """Return who else is to see an image."""
        found = []
        if rollout.challenger and rollout.canary and self._draw.random() < rollout.canary.compared:
            found.append(rollout.champion if first is rollout.challenger else rollout.challenger)
        if rollout.shadow and self._deaths[str(rollout.shadow)] < DEATHS:
            found.append(rollout.shadow)
        return found

    def _copy(self, rollout: Rollout, other: ModelVersion, asked: _Asked, reply: Reply, ticket: Ticket) -> bool:
        """Have another version see the image, too, unless so many others are being seen; tell whether."""
        if len(self._copies) >= AT_ONCE:
            return False
        self._later(self._compare(rollout, other, asked, reply, ticket))
        return True

    async def _compare(self, rollout: Rollout, other: ModelVersion, asked: _Asked, reply: Reply, ticket: Ticket) -> None:
        """Have another version see an image, and look at how the two differ."""
        role = "champion" if other is rollout.champion else "challenger" if other is rollout.challenger else "shadow"
        mine = Ticket(role=role, beside=ticket.id, against=ticket.against)  # type: ignore[arg-type]
        copy = await self._desk.ask(other, asked.task, asked.image, JSON, mine)
        if role == "shadow" and copy.title == DIED:
            self._mourn(other)
        if role == "shadow" or _busy(copy):
            return
        if copy.status != HTTPStatus.OK:
            if role == "challenger":
                self._judge(rollout, Pair(failed=True))
            return
        times = _own_ms(reply), _own_ms(copy)
        champion, challenger = times if role == "challenger" else times[::-1]
        slower = challenger / max(champion, 0.1) if reply.together == copy.together else None
        found = json.loads(copy.headers.get("X-Medray-Agreement", "{}"))
        self._judge(rollout, Pair(slower=slower, agreement=found))

    def _mourn(self, shadow: ModelVersion) -> None:
        """Take a shadow back that ends replicas: each of them was answering others, too."""
        self._deaths[str(shadow)] += 1
        if self._deaths[str(shadow)] == DEATHS:
            self._later(self._withdraw(shadow, SHADOW, f"{DEATHS} replicas ended over its images"))

    def _judge(self, rollout: Rollout, pair: Pair) -> None:
        challenger, canary = rollout.challenger, rollout.canary
        if challenger is None or canary is None:
            return
        trial = (str(rollout.champion), str(challenger), canary.since)
        if trial in self._ended:
            return
        why = self._judges.setdefault(trial, Judge(canary)).add(pair)
        if why:
            self._ended.add(trial)  # at once: no further request goes there
            seen = self._judges.pop(trial).seen
            logger.warning("%s is taken back after %d requests: %s", challenger, seen, why)
            self._later(self._withdraw(challenger, CHALLENGER, f"{why}, after {seen} requests"))

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something in a context of its own: it is no part of the request that it follows."""
        task = asyncio.create_task(work, context=Context())
        self._copies.add(task)
        task.add_done_callback(self._copies.discard)

    async def _withdraw(self, version: ModelVersion, alias: str, why: str) -> None:
        """Take an alias away; until that has worked its version is left out here all the same."""
        pause = 1.0
        while True:
            try:
                await asyncio.to_thread(self._registry.withdraw, str(version), alias, why=why, actor=ACTOR)
            except Exception as error:  # noqa: BLE001 - an outage of the registry or the audit trail; tried again in a moment
                logger.warning("%s can't be taken back yet (%s)", version, type(error).__name__)
                await asyncio.sleep(pause)
                pause = min(60.0, 2 * pause)
            else:
                self._known.pop(version.name, None)
                return

    async def _rollout(self, version: ModelVersion) -> Rollout | None:
        """Return a model's rollout: what was known a moment ago, while it is looked up again behind the request."""
        known = self._known.get(version.name)
        if known is None:
            rollout = await self._look_up(version.name)
            if rollout is None:
                return None
            known = self._known.setdefault(version.name, _Known(rollout, time.monotonic()))
        elif time.monotonic() - known.at > self._desk.limits.refresh_s and (known.check is None or known.check.done()):
            known.check = asyncio.create_task(self._look_again(version.name, known), context=Context())
        found = replace(known.rollout, champion=version)
        challenger, canary = found.challenger, found.canary
        if challenger is None or canary is None:
            return found
        over = challenger.version == version.version or (str(version), str(challenger), canary.since) in self._ended
        return replace(found, challenger=None, canary=None) if over else found

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
            return await asyncio.to_thread(self._registry.rollout, name)
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


def _busy(reply: Reply) -> bool:
    """Tell whether nothing is known of an answer; a replica that died over the image has said enough."""
    return reply.status == HTTPStatus.SERVICE_UNAVAILABLE and reply.title != DIED


def _own_ms(reply: Reply) -> float:
    return sum(reply.timing.get(stage, 0.0) for stage in OWN)
