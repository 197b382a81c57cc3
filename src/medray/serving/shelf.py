"""Loaded models of one process: as many as a budget holds, each loaded once, the least recently used out first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Generic, TypeVar

from medray.errors import ResourceError

__all__ = ["Shelf"]

LOADERS = 2
"""Threads: a second cold model doesn't wait for the first."""
T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Place(Generic[T]):
    """One model's place: taken when somebody first asks, filled when it is loaded."""

    task: asyncio.Task[T] | None = None
    bytes: int = 0
    users: int = 0
    turn: int = 0


class Shelf(Generic[T]):
    """Lends loaded models. What is lent stays; of the rest the least recently used makes way for what comes.

    Models are loaded in threads of the shelf's own, so that whoever uses another model goes on.

    Args:
        fetch: Key to the local folder of a model's files.
        load: Folder to loaded model.
        budget: Bytes of model files that may be loaded at a time.
    """

    def __init__(self, fetch: Callable[[str], Path], load: Callable[[Path], T], budget: int) -> None:
        self._fetch = fetch
        self._load = load
        self._budget = budget
        self._places: dict[str, _Place[T]] = {}
        self._turns = count(1)
        self._freed = asyncio.Condition()
        self._threads = ThreadPoolExecutor(LOADERS, thread_name_prefix="load-model")

    @property
    def loaded(self) -> tuple[str, ...]:
        """Keys of the models that are loaded, the most recently used first."""
        ready = [(place.turn, key) for key, place in self._places.items() if place.task and _succeeded(place.task)]
        return tuple(key for _, key in sorted(ready, reverse=True))

    @asynccontextmanager
    async def lend(self, key: str) -> AsyncIterator[T]:
        """Lend a model, loading it where it isn't.

        Raises:
            ResourceError: If it is larger than the whole budget.
            MedrayError: What `fetch` and `load` raise; the next who asks tries again.
        """
        place = self._places.setdefault(key, _Place())
        if place.task is None:
            place.task = asyncio.create_task(self._bring(key, place))
        place.users += 1
        place.turn = next(self._turns)
        try:
            yield await asyncio.shield(place.task)  # who goes away takes the model from nobody else
        finally:
            place.users -= 1
            async with self._freed:
                self._freed.notify_all()

    async def _bring(self, key: str, place: _Place[T]) -> T:
        loop = asyncio.get_running_loop()
        try:
            folder = await loop.run_in_executor(self._threads, self._fetch, key)
            size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
            await self._make_room(key, place, size)
            return await loop.run_in_executor(self._threads, self._load, folder)
        except BaseException:
            if self._places.get(key) is place:
                del self._places[key]
            raise

    async def _make_room(self, key: str, place: _Place[T], size: int) -> None:
        """Wait until there is room for a model, and take it."""
        if size > self._budget:
            raise ResourceError(
                f"{key} has {_mb(size)} MB and all models together may have {_mb(self._budget)}: raise models_mb"
            )
        async with self._freed:
            while True:
                idle = sorted((other.turn, name) for name, other in self._places.items() if self._may_go(other))
                while idle and self._used() + size > self._budget:
                    del self._places[idle.pop(0)[1]]
                if self._used() + size <= self._budget:
                    place.bytes = size
                    return
                await self._freed.wait()

    def _used(self) -> int:
        return sum(place.bytes for place in self._places.values())

    @staticmethod
    def _may_go(place: _Place[T]) -> bool:
        return place.users == 0 and place.task is not None and _succeeded(place.task)


def _succeeded(task: asyncio.Task[T]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None


def _mb(size: int) -> int:
    return -(-size // 2**20)
