"""One thread that runs networks for many callers: who waits for one model goes together, as far as voxels allow."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from medray.inference.predictor import Predictor

__all__ = ["Batcher"]

Image = NDArray[np.float32]


@dataclass(slots=True, eq=False)
class _Wish:
    predictor: Predictor
    image: Image
    told: asyncio.Future[Image] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Batcher:
    """Runs prepared images through their models, first come, first served.

    Several images of one model that wait at the same time are one batch: all those next in line for it until their voxels
    together pass the limit. Nobody waits for a batch to fill.

    Args:
        most_voxels: Of a batch of more than one image.
    """

    def __init__(self, most_voxels: int) -> None:
        self._most_voxels = most_voxels
        self._line: deque[_Wish] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="network")
        self._worker: asyncio.Task[None] | None = None
        self._since: float | None = None

    @property
    def busy_seconds(self) -> float:
        """How long the batch that runs now has been running; 0 when none does."""
        return 0.0 if self._since is None else time.monotonic() - self._since

    async def run(self, predictor: Predictor, image: Image) -> Image:
        """Return `Predictor.activate`'s map of one image; who is cancelled leaves the line, or ends the network's run."""
        wish = _Wish(predictor, image)
        self._line.append(wish)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await wish.told

    async def probe(self, predictor: Predictor) -> None:
        """Run `Predictor.probe` in the same thread."""
        await asyncio.get_running_loop().run_in_executor(self._thread, predictor.probe)

    async def _work(self) -> None:
        while self._line:
            batch = self._next()
            if batch:
                self._since = time.monotonic()
                try:
                    await self._run(batch)
                finally:
                    self._since = None

    def _next(self) -> list[_Wish]:
        """Take the first in line, and those behind it that can go with it."""
        batch: list[_Wish] = []
        voxels, left = 0, deque[_Wish]()
        for wish in self._line:
            if wish.told.cancelled():
                continue
            voxels_then = voxels + wish.image.size
            if not batch or (self._alike(wish, batch[0]) and voxels_then <= self._most_voxels):
                batch.append(wish)
                voxels = voxels_then
            else:
                left.append(wish)
        self._line = left
        return batch

    @staticmethod
    def _alike(one: _Wish, other: _Wish) -> bool:
        return one.predictor is other.predictor and one.image.shape == other.image.shape

    async def _run(self, batch: list[_Wish]) -> None:
        def unwanted() -> bool:
            return all(wish.told.cancelled() for wish in batch)

        def run() -> list[Image]:
            return batch[0].predictor.activate([wish.image for wish in batch], unwanted=unwanted)

        try:
            answers = await asyncio.get_running_loop().run_in_executor(self._thread, run)
        except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to who waits for it
            if len(batch) > 1:  # one of them is to blame, and the others shall not pay for it
                for wish in batch:
                    await self._run([wish])
            elif not batch[0].told.done():
                batch[0].told.set_exception(error)
            return
        for wish, answer in zip(batch, answers, strict=True):
            if not wish.told.done():
                wish.told.set_result(answer)
