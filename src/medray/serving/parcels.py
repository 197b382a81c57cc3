"""Small images go to the pool together: a call costs both processes a millisecond and more, whatever it carries."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from dataclasses import dataclass, field

from medray.errors import ImageError
from medray.formats.image import declared_bytes
from medray.serving.results import Reply
from medray.serving.ticket import Ticket

__all__ = ["SMALL_BYTES", "Parcels", "Wanted", "is_small"]

SMALL_BYTES, SMALL_READ = 256 << 10, 2 << 20
"""Of an image that doesn't go alone, in its file and when it is read."""
MOST_BYTES, MOST = 4 << 20, 32
"""Of a call, in bytes and images."""


def is_small(image: bytes) -> bool:
    """Tell whether an image is small, in its file and by what its header says: nobody is to wait for another's large one."""
    if len(image) > SMALL_BYTES:
        return False
    try:
        return declared_bytes(image) <= SMALL_READ
    except ImageError:  # who reads it will say what is wrong with it
        return True


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked of a model.

    Attributes:
        task: ``segmentation``, ``diagnosis`` or ``detection``.
        image: The image's file.
        media_type: Of the answer.
        ticket: Why it is asked.
    """

    task: str
    image: bytes
    media_type: str
    ticket: Ticket = field(default_factory=Ticket)


Waiting = tuple[Wanted, asyncio.Future[Reply]]
"""What is wanted, and where its answer goes."""


@dataclass(slots=True, eq=False)
class _Line:
    """Those that wait for one model."""

    waiting: deque[Waiting] = field(default_factory=deque)
    under_way: int = 0


class Parcels:
    """Carries small images to a model. Nobody waits for a call to fill: one goes at once, unless enough are under way.

    Those that come meanwhile go with the next, in turn. What a call raises is raised for everybody in it.

    Args:
        send: Takes a model's version and what is wanted of it, and gives as many answers.
        most_calls: Under way at a time for each model.
    """

    def __init__(self, send: Callable[[str, Sequence[Wanted]], Awaitable[Sequence[Reply]]], most_calls: int) -> None:
        self._send = send
        self._most_calls = most_calls
        self._lines: dict[str, _Line] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, version: str, wanted: Wanted) -> Reply:
        """Have one image answered; who goes away before it is on its way takes it along."""
        line = self._lines.setdefault(version, _Line())
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        line.waiting.append((wanted, answer))
        if line.under_way < self._most_calls:
            line.under_way += 1
            # In a context of its own: a call for many is no part of the request that happens to start it.
            task = asyncio.create_task(self._carry(version, line), context=Context())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await answer

    async def _carry(self, version: str, line: _Line) -> None:
        try:
            while batch := _next(line.waiting):
                try:
                    replies = await self._send(version, [wanted for wanted, _ in batch])
                except Exception as error:  # noqa: BLE001 - whoever waits for it is told
                    for _, answer in batch:
                        if not answer.done():
                            answer.set_exception(error)
                    continue
                for (_, answer), reply in zip(batch, replies, strict=True):
                    if not answer.done():
                        answer.set_result(reply)
        finally:
            line.under_way -= 1
            if not line.under_way and not line.waiting:
                self._lines.pop(version, None)


def _next(waiting: deque[Waiting]) -> list[Waiting]:
    """Take those from the line that go together, without who has gone."""
    batch: list[Waiting] = []
    size = 0
    while waiting and len(batch) < MOST:
        wanted, answer = waiting[0]
        if batch and size + len(wanted.image) > MOST_BYTES:
            break
        waiting.popleft()
        if not answer.done():
            batch.append((wanted, answer))
            size += len(wanted.image)
    return batch
