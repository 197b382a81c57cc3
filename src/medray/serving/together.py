"""Several callers' small images at once: each step for all in one thread, for a change of threads costs more than an image."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import replace
from http import HTTPStatus
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medray.formats.image import declared_bytes, read_image_files
from medray.imaging.volume import Volume
from medray.inference.bundled import BundlePredictor
from medray.inference.prediction import Prediction
from medray.inference.predictor import Predictor
from medray.preprocessing.plan import Plan
from medray.serving.batcher import Batcher, Turn
from medray.serving.blame import by_the_model
from medray.serving.copies import compared
from medray.serving.parcels import Wanted
from medray.serving.results import Reply, answer, other_task, refusal
from medray.serving.room import Room
from medray.serving.shelf import Shelf
from medray.serving.stages import Stages
from medray.serving.witness import Told

__all__ = ["COPIES", "Together"]

SMALL_MAP = 32 << 20
"""Bytes of what a network says of an image that doesn't go alone: here the whole of it is kept."""
COPIES = 4
"""How often an image lies in memory while it is worked on: decoded, upright, on the plan's grid, and as its answer."""


class _Case:
    """One caller's image on its way to a reply."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self.stages = Stages()
        self.prediction: Prediction | None = None
        self.agreement: Mapping[str, float] = {}
        self.together = 1
        self.needed = self.map_bytes = 0
        self.reply: Reply | None = None
        self.volume: Volume
        self.prepared: NDArray[np.float32]
        self.attempt(self._weigh)

    def attempt(self, step: Callable[..., None], *given: Any) -> None:
        """Take a step, unless an earlier one has failed; what goes wrong is this caller's reply."""
        if self.reply is None:
            try:
                step(*given)
            except Exception as error:  # noqa: BLE001 - of this image alone; the others go on
                self.reply = refusal(error)

    def _weigh(self) -> None:
        self.needed = COPIES * declared_bytes(self.wanted.image)

    def prepare(self, predictor: Predictor | BundlePredictor, version: str) -> None:
        """Make what the network is shown."""
        self.stages.end("wait")
        if predictor.task != self.wanted.task:
            self.reply = other_task(version, predictor.task, self.wanted.task)
            return
        self.volume = read_image_files([self.wanted.image])
        self.stages.end("decode")
        with by_the_model():
            self.prepared = predictor.prepare(self.volume)
            self.map_bytes = predictor.map_bytes(self.prepared, whole=True)
        self.stages.end("preprocess")

    def finish(self, predictor: Predictor | BundlePredictor, version: str, turn: Turn | BaseException) -> None:
        """Make the reply of what the network says."""
        self.stages.end("network")
        with by_the_model():
            if isinstance(turn, BaseException):
                raise turn
            self.prediction = predictor.finish(turn.blocks, self.volume, self.prepared)
        self.stages.part("network", "queue", turn.waited_s)
        self.together = turn.together
        self.stages.end("postprocess")
        wanted = self.wanted
        reply = answer(self.prediction, version, wanted.media_type, self.stages, [wanted.image], wanted.ticket.id)
        self.reply, self.agreement = compared(self.prediction, replace(reply, together=self.together), wanted.ticket)

    def told(self, version: str, plan: Plan | None) -> Told:
        """Return what is to be recorded."""
        assert self.reply is not None  # noqa: S101 - it is told of when it is answered
        facts = Told(self.wanted.ticket, version, self.wanted.task, [self.wanted.image], self.stages.milliseconds())
        if self.reply.status != HTTPStatus.OK:
            return replace(facts, status=self.reply.status, reason=self.reply.title)
        return replace(
            facts,
            volume=self.volume,
            prediction=self.prediction,
            plan=plan,
            together=self.together,
            agreement=self.agreement,
        )


class Together:
    """Answers small images of one model together.

    Args:
        shelf: Where models are.
        batcher: Runs networks.
        hands: Threads that bring networks' answers onto their images' grids.
        room: For images in work.
        maps: For what networks say of them.
        tell: Records a prediction.
    """

    def __init__(
        self,
        shelf: Shelf[Predictor | BundlePredictor],
        batcher: Batcher,
        hands: ThreadPoolExecutor,
        room: Room,
        maps: Room,
        tell: Callable[[Told], Awaitable[None]],
    ) -> None:
        self._shelf = shelf
        self._batcher = batcher
        self._hands = hands
        self._room = room
        self._maps = maps
        self._tell = tell

    async def answer(self, version: str, wanted: Sequence[Wanted]) -> list[Reply | None]:
        """Answer each; what is wrong with one image is its own reply and none of the others'.

        Returns:
            A reply for each; None for an image of which the network says so much that it is to go alone.

        Raises:
            ImageError: ``too-large``, if there is less room than they need together.
            ResourceError: If too many wait for room.
        """
        cases = [_Case(one) for one in wanted]
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._room.hold(sum(case.needed for case in cases)))
            for case in cases:
                case.stages.end("wait")
            predictor = await stack.enter_async_context(self._shelf.lend(version))
            for case in cases:
                case.stages.end("load")
            await asyncio.to_thread(_prepare, cases, predictor, version)
            good = [case for case in cases if case.reply is None and case.map_bytes <= SMALL_MAP]
            await stack.enter_async_context(self._maps.hold(sum(case.map_bytes for case in good)))
            said = await stack.enter_async_context(self._batcher.run_all(predictor, [case.prepared for case in good]))
            await asyncio.get_running_loop().run_in_executor(self._hands, _finish, good, said, predictor, version)
        plan = getattr(predictor, "plan", None)
        for case in cases:
            if case.reply is not None:
                await self._tell(case.told(version, plan))
        return [case.reply for case in cases]


def _prepare(cases: Sequence[_Case], predictor: Predictor | BundlePredictor, version: str) -> None:
    for case in cases:
        case.attempt(case.prepare, predictor, version)


def _finish(
    cases: Sequence[_Case], said: Sequence[Turn | BaseException], predictor: Predictor | BundlePredictor, version: str
) -> None:
    for case, turn in zip(cases, said, strict=True):
        case.attempt(case.finish, predictor, version, turn)
