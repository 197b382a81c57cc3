"""Bytes that work in progress may take: who doesn't fit now waits, who never will is told so."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from medray.errors import ImageError, ResourceError

__all__ = ["Room"]


class Room:
    """A budget in bytes, first come, first served.

    Args:
        budget: Bytes.
        most_waiting: How many may wait; others are refused at once.
    """

    def __init__(self, budget: int, most_waiting: int) -> None:
        self._budget = self._free = budget
        self._most_waiting = most_waiting
        self._line: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def free(self) -> int:
        """Bytes that nobody holds."""
        return self._free

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._line)

    @asynccontextmanager
    async def hold(self, size: int) -> AsyncIterator[None]:
        """Hold so many bytes for as long as the block runs.

        Raises:
            ImageError: ``too-large``, if the whole budget is less.
            ResourceError: If too many wait already.
        """
        if size > self._budget:
            raise ImageError("too-large", f"the image needs {size >> 20} MB of memory; a request may have {self._budget >> 20}")
        await self._enter(size)
        try:
            yield
        finally:
            self._free += size
            self._admit()

    async def _enter(self, size: int) -> None:
        if not self._line and size <= self._free:
            self._free -= size
            return
        if len(self._line) >= self._most_waiting:
            raise ResourceError("all memory for images is in use and many wait: try again")
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append((size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it was let in just when it went away
                self._free += size
            self._admit()
            raise

    def _admit(self) -> None:
        while self._line:
            size, turn = self._line[0]
            if turn.done():
                self._line.popleft()
            elif size <= self._free:
                self._free -= size
                turn.set_result(None)
                self._line.popleft()
            else:
                return
