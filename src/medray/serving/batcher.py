"""One thread that runs networks for many callers: who waits for one model goes together, as far as voxels allow."""

from __future__ import annotations

import asyncio
import queue
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from medray.inference.prediction import Unwanted
from medray.preprocessing.blocks import Block, Blocks

__all__ = ["Batcher", "Network", "Turn"]

Image = NDArray[np.float32]
T = TypeVar("T")
BLOCKS_AHEAD = 2
"""Blocks that the network may be ahead of who decodes them, unless the whole map is small."""


class Network(Protocol):
    """What runs; see `medray.inference.predictor.Predictor`."""

    def activate(self, images: Sequence[Image], *, unwanted: Callable[[], bool]) -> Iterator[tuple[int, Blocks]]:
        """Run prepared images."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """One image's turn at a network.

    Attributes:
        blocks: Its map.
        waited_s: How long it stood in line.
        together: How many images had this turn.
    """

    blocks: Blocks
    waited_s: float
    together: int


class _Wish:
    """One caller's image, and its answer's blocks on their way from the network's thread to the caller's."""

    def __init__(self, network: Network, image: Image, ahead: int) -> None:
        self.network = network
        self.image = image
        self.gone = False
        self._loop = asyncio.get_running_loop()
        self._since = time.monotonic()
        self._waited_s, self._together = 0.0, 1
        self.begun: asyncio.Future[Turn] = self._loop.create_future()
        self._blocks: queue.Queue[Block | Exception | None] = queue.Queue(ahead)

    def begin(self, together: int) -> None:
        """Say that its turn has come; in the network's thread."""
        self._waited_s, self._together = time.monotonic() - self._since, together

    def send(self, blocks: Blocks) -> None:
        """Send what the network makes; in its thread."""
        turn = Turn(blocks.through(self._received()), self._waited_s, self._together)
        self._tell(lambda: self.begun.set_result(turn))
        try:
            for block in blocks.parts:
                self._put(block)
        except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to who waits for the next block
            self._put(error)
            return
        self._put(None)

    def fail(self, error: Exception) -> None:
        """Say that there is no answer; in any thread."""
        self._tell(lambda: self.begun.set_exception(error))

    def _tell(self, what: Callable[[], None]) -> None:
        self._loop.call_soon_threadsafe(lambda: None if self.begun.done() else what())

    def _put(self, item: Block | Exception | None) -> None:
        while not self.gone:
            try:
                return self._blocks.put(item, timeout=0.05)
            except queue.Full:
                continue
        return None

    def _received(self) -> Iterator[Block]:
        while not self.gone:
            try:
                item = self._blocks.get(timeout=0.05)
            except queue.Empty:
                continue
            if item is None:
                return
            if isinstance(item, Exception):
                raise item
            yield item
        raise Unwanted


class Batcher:
    """Runs prepared images through their models, first come, first served.

    Several images of one model that wait at the same time are one batch: all those next in line for it until their voxels
    together pass the limit. Nobody waits for a batch to fill.

    It is also the only thread whose torch uses more than one core: each thread that does brings threads of its own along,
    and where these are more than cores, GNU's OpenMP puts them to sleep between operations: a DenseNet took twice as long.

    Args:
        most_voxels: Of a batch of more than one image.
        threads: Cores that torch may use.
    """

    def __init__(self, most_voxels: int, threads: int = 1) -> None:
        self._most_voxels = most_voxels
        self._line: deque[_Wish] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="network", initializer=partial(torch.set_num_threads, threads))
        self._worker: asyncio.Task[None] | None = None
        self._since: float | None = None

    @property
    def busy_seconds(self) -> float:
        """How long the batch that runs now has been running; 0 when none does."""
        return 0.0 if self._since is None else time.monotonic() - self._since

    @asynccontextmanager
    async def run(self, network: Network, image: Image) -> AsyncIterator[Turn]:
        """Give one image's turn, as soon as its first blocks are there; they are to be gone through in another thread.

        Who leaves the block early, or is cancelled, leaves the line or ends the network's run.
        """
        wish = _Wish(network, image, BLOCKS_AHEAD)
        self._queue([wish])
        try:
            yield await wish.begun
        finally:
            wish.gone = True

    @asynccontextmanager
    async def run_all(self, network: Network, images: Sequence[Image]) -> AsyncIterator[list[Turn | BaseException]]:
        """Give several small images' turns, or why there is none, once all are there; otherwise as `run` does."""
        wishes = [_Wish(network, image, 0) for image in images]
        self._queue(wishes)
        try:
            yield await asyncio.gather(*(wish.begun for wish in wishes), return_exceptions=True)
        finally:
            for wish in wishes:
                wish.gone = True

    def _queue(self, wishes: Sequence[_Wish]) -> None:
        self._line.extend(wishes)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())

    async def beside(self, work: Callable[..., T], *given: object) -> T:
        """Do something else that uses torch in the same thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *given)

    async def _work(self) -> None:
        while self._line:
            batch = self._next()
            if batch:
                self._since = time.monotonic()
                await asyncio.get_running_loop().run_in_executor(self._thread, _run, batch)
                self._since = None

    def _next(self) -> list[_Wish]:
        """Take the first in line, and those behind it that can go with it."""
        batch: list[_Wish] = []
        voxels, left = 0, deque[_Wish]()
        for wish in self._line:
            if wish.gone:
                continue
            voxels_then = voxels + wish.image.size
            if not batch or (_alike(wish, batch[0]) and voxels_then <= self._most_voxels):
                batch.append(wish)
                voxels = voxels_then
            else:
                left.append(wish)
        self._line = left
        return batch


def _alike(one: _Wish, other: _Wish) -> bool:
    return one.network is other.network and one.image.shape == other.image.shape


def _run(batch: list[_Wish]) -> None:
    def unwanted() -> bool:
        return all(wish.gone for wish in batch)

    for wish in batch:
        wish.begin(len(batch))
    try:
        for number, blocks in batch[0].network.activate([wish.image for wish in batch], unwanted=unwanted):
            batch[number].send(blocks)
    except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to who waits for it
        if len(batch) == 1:
            return batch[0].fail(error)
        for wish in batch:  # one of them is to blame, and the others shall not pay for it
            _run([wish])
    return None
