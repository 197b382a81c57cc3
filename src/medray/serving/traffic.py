"""Which version answers a request, which others see it, and what becomes of a challenger that does worse.

A challenger's failure is nobody's: the champion answers then. What is compared with an answer runs after that has gone out.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any

from medray.errors import MedrayError
from medray.monitoring.arms import OWN
from medray.registry.registry import REFERENCE
from medray.registry.rollout import CHALLENGER, CHAMPION, SHADOW, Rollout
from medray.registry.version import ModelVersion
from medray.serving.desk import DIED, LATE, Desk
from medray.serving.judge import Judge, Pair
from medray.serving.patient import Patient
from medray.serving.results import JSON, Reply
from medray.serving.rollouts import Rollouts
from medray.serving.sources import Reference
from medray.serving.ticket import Ticket

__all__ = ["Asked", "Traffic", "is_shared"]

AT_ONCE = 4
"""Copies that are under way; while there are so many, others are left out: nobody's answer waits for a copy."""
DEATHS = 3
"""Replicas that may end over a shadow's copies before it is taken back."""
ONE_DEATH_S = 5.0
"""In which copies that end are of one replica."""
ACTOR = "medray canary"

logger = logging.getLogger("ray.serve")


_Trial = tuple[str, str, str]
"""Champion, challenger, and when the trial began."""


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """What is asked of a model.

    Attributes:
        task: What is asked for.
        image: The image's file, or where it is; or a patient's scans, which one version compares.
        media_type: Of the answer.
    """

    task: str
    image: bytes | Reference | Patient
    media_type: str


_Answer = Callable[[ModelVersion, Ticket], Awaitable[Reply]]


def is_shared(reference: str) -> bool:
    """Tell whether who asks leaves it to the endpoint which version answers: they name none, or the champion."""
    match = REFERENCE.fullmatch(reference)
    return match is not None and not match["version"] and match["alias"] in {None, CHAMPION}


class Traffic:
    """Shares requests out among a model's versions.

    Args:
        desk: Has them answered.
        seed: Of the choice which requests a challenger answers; another one each time by default.
    """

    def __init__(self, desk: Desk, seed: int | None = None) -> None:
        self._desk = desk
        self._rollouts = Rollouts(desk)
        self._judges: dict[_Trial, Judge] = {}
        self._ended: set[_Trial] = set()
        self._copies: set[asyncio.Task[None]] = set()
        self._deaths: dict[str, list[float]] = {}
        self._draw = random.Random(seed)  # noqa: S311 - which request goes where is no secret

    async def ask(self, reference: str, version: ModelVersion, asked: Asked, wish: str) -> Reply:
        """Have an image answered by who is to.

        Args:
            reference: As the request has it; see `is_shared`.
            version: What it means now.
            asked: What.
            wish: ``always`` or ``never``: whether the challenger is to answer; anything else leaves it to chance.
        """
        rollout = await self._rollout(version) if is_shared(reference) else None

        def answer(one: ModelVersion, ticket: Ticket) -> Awaitable[Reply]:
            return self._once(one, asked, ticket)

        if rollout is None or rollout.alone:
            return await answer(version, Ticket())
        first = rollout.challenger if rollout.challenger and _chosen(wish, self._lot(rollout)) else version
        return await self._shared_out(rollout, first, asked, answer)

    async def follow(
        self,
        version: ModelVersion,
        asked: Asked,
        tell: Callable[[float], None] = lambda share: None,
        *,
        key: str = "",
        wish: str = "",
        patience_s: float = 0.0,
    ) -> Reply:
        """Have something answered however long that takes, as `Desk.follow` does, by who is to.

        Args:
            version: What the request meant when it came.
            asked: What.
            tell: Called with how far it is, 0 to 1.
            key: Of the request, where it leaves open who answers: the same one is answered by the same version, as long as
                the canary lasts.
            wish: See `ask`.
            patience_s: For which it waits; as long as answers are kept, by default.
        """

        def answer(one: ModelVersion, ticket: Ticket) -> Awaitable[Reply]:
            return self._desk.follow(one, asked.task, asked.image, asked.media_type, tell, ticket, patience_s=patience_s)

        shared = bool(key) and not isinstance(asked.image, Patient)
        rollout = await self._rollout(version) if shared else None
        if rollout is None or rollout.alone or await self._is_past(version):
            return await answer(version, Ticket())
        first = rollout.challenger if rollout.challenger and _chosen(wish, _drawn(key, rollout)) else version
        return await self._shared_out(rollout, first, asked, answer)

    async def _is_past(self, version: ModelVersion) -> bool:
        """Tell whether another version has become champion since a request came."""
        try:
            return (await self._desk.resolve(version.name)).version != version.version
        except MedrayError:
            return True

    async def _shared_out(self, rollout: Rollout, first: ModelVersion, asked: Asked, answer: _Answer) -> Reply:
        """Have a version answer, and others see the image, too; what a challenger can't answer the champion does."""
        trial, others = first is not rollout.champion, self._others(rollout, first)
        ticket = Ticket(role="challenger" if trial else "champion", keep=bool(others))
        reply = await answer(first, ticket)
        if trial and reply.status != HTTPStatus.OK:
            return await self._instead(rollout, answer, ticket, reply)
        if reply.status == HTTPStatus.OK:
            copied = [self._copy(rollout, other, asked, reply, replace(ticket, against=reply.kept)) for other in others]
            if trial and not any(copied):
                self._judge(rollout, Pair())  # its failures count, and so must this
        return replace(reply, kept=())

    async def _once(self, version: ModelVersion, asked: Asked, ticket: Ticket, media_type: str = "") -> Reply:
        assert not isinstance(asked.image, Patient)  # noqa: S101 - one version compares their scans
        return await self._desk.ask(version, asked.task, asked.image, media_type or asked.media_type, ticket)

    async def _instead(self, rollout: Rollout, answer: _Answer, ticket: Ticket, refused: Reply) -> Reply:
        """Have the champion answer what the challenger couldn't."""
        reply = await answer(rollout.champion, Ticket(beside=ticket.id))
        if reply.status == HTTPStatus.OK and not _busy(refused):
            self._judge(rollout, Pair(failed=True))
        return reply

    def _lot(self, rollout: Rollout) -> bool:
        """Tell by chance whether the challenger is to answer."""
        return rollout.canary is not None and self._draw.random() < rollout.canary.share

    def _others(self, rollout: Rollout, first: ModelVersion) -> list[ModelVersion]:
        """Return who else is to see an image."""
        found = []
        if rollout.challenger and rollout.canary and self._draw.random() < rollout.canary.compared:
            found.append(rollout.champion if first is rollout.challenger else rollout.challenger)
        if rollout.shadow and len(self._deaths.get(str(rollout.shadow), ())) < DEATHS:
            found.append(rollout.shadow)
        return found

    def _copy(self, rollout: Rollout, other: ModelVersion, asked: Asked, reply: Reply, ticket: Ticket) -> bool:
        """Have another version see the image, too, unless so many others are being seen; tell whether."""
        if len(self._copies) >= AT_ONCE:
            return False
        self._later(self._compare(rollout, other, asked, reply, ticket))
        return True

    async def _compare(self, rollout: Rollout, other: ModelVersion, asked: Asked, reply: Reply, ticket: Ticket) -> None:
        """Have another version see an image, and look at how the two differ."""
        role = "champion" if other is rollout.champion else "challenger" if other is rollout.challenger else "shadow"
        mine = Ticket(role=role, beside=ticket.id, against=ticket.against)  # type: ignore[arg-type]
        copy = await self._once(other, asked, mine, JSON)
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
        now, name = time.monotonic(), str(shadow)
        known = self._deaths.setdefault(name, [])
        if known and now - known[-1] < ONE_DEATH_S:
            return
        known.append(now)
        if len(known) == DEATHS:
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
                await asyncio.to_thread(self._desk.registry.withdraw, str(version), alias, why=why, actor=ACTOR)
            except Exception as error:  # noqa: BLE001 - an outage of the registry or the audit trail; tried again in a moment
                logger.warning("%s can't be taken back yet (%s)", version, type(error).__name__)
                await asyncio.sleep(pause)
                pause = min(60.0, 2 * pause)
            else:
                self._rollouts.forget(version.name)
                self._deaths.pop(str(version), None)
                return

    async def _rollout(self, version: ModelVersion) -> Rollout | None:
        """Return which versions of a model get which requests now, but for a challenger whose trial is over."""
        found = await self._rollouts.of(version)
        if found is None or found.challenger is None or found.canary is None:
            return found
        over = (str(version), str(found.challenger), found.canary.since) in self._ended
        return replace(found, challenger=None, canary=None) if over else found


def _chosen(wish: str, lot: bool) -> bool:
    """Tell whether the challenger is to answer: as it is wished for, or else as the lot says."""
    return wish == "always" if wish in {"always", "never"} else lot


def _drawn(key: str, rollout: Rollout) -> bool:
    """Tell whether a challenger answers what has a key: its share of all keys, each time the same."""
    canary = rollout.canary
    if canary is None:
        return False
    digest = hashlib.sha256(f"{key} {canary.since}".encode()).digest()
    return int.from_bytes(digest[:8]) < canary.share * 2**64


def _busy(reply: Reply) -> bool:
    """Tell whether nothing is known of an answer; a replica that died over the image, or needs for ever, has said enough."""
    return reply.status == HTTPStatus.SERVICE_UNAVAILABLE and reply.title not in {DIED, LATE}


def _own_ms(reply: Reply) -> float:
    return sum(reply.timing.get(stage, 0.0) for stage in OWN)
