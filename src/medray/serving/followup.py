"""A patient's scans in a replica: read, seen by the model one after another, and compared."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from typing import Any

from medray.imaging.volume import Volume
from medray.inference.bundled import BundlePredictor
from medray.inference.prediction import Prediction
from medray.inference.predictor import Predictor
from medray.progression.track import watchful
from medray.progression.visit import require_one_patient
from medray.serving.patient import Patient
from medray.serving.progress import Progress
from medray.serving.results import Reply, other_task
from medray.serving.shelf import Shelf
from medray.serving.sources import Reference
from medray.serving.stages import Stages
from medray.serving.tracking import TRACKERS, Means, visited

__all__ = ["FollowUp"]

Scans = Callable[[Sequence[bytes | Reference], Stages, AsyncExitStack], Awaitable[list[list[bytes]]]]
"""Gives several images' files, once there is room for all of them."""
Predicted = Callable[[Any, Volume, Stages, AsyncExitStack, Progress], Awaitable[tuple[Prediction, int]]]
"""Runs a network on an image, holding what that needs until the stack ends, and says with how many images it went."""


class FollowUp:
    """Tells what changed between a patient's scans.

    Args:
        shelf: Where models are.
        scans: Fetches images.
        predicted: Runs networks.
        by_hand: Runs slow work in a thread.
    """

    def __init__(
        self,
        shelf: Shelf[Predictor | BundlePredictor],
        scans: Scans,
        predicted: Predicted,
        by_hand: Callable[[Callable[[], Any]], Awaitable[Any]],
    ) -> None:
        self._shelf = shelf
        self._scans = scans
        self._predicted = predicted
        self._by_hand = by_hand

    async def answer(self, version: str, patient: Patient, media_type: str, progress: Progress) -> Reply:
        """Read the scans, have the model see each, and compare; raises what is wrong with them."""
        stages = Stages()
        async with AsyncExitStack() as stack:
            scans = await self._scans(patient.scans, stages, stack)
            predictor = await stack.enter_async_context(self._shelf.lend(version))
            stages.end("load")
            if predictor.task not in TRACKERS:
                return other_task(version, predictor.task, "segmentation or progression")
            visits = await visited(scans, patient.days)
            if not patient.how.one_patient:
                require_one_patient(visits)
            stages.end("decode")
            predict = partial(self._alone, watchful(predictor, patient.how), stages, progress)
            means = Means(predict, self._by_hand, stages)
            reply = await TRACKERS[predictor.task](means, visits, patient, version, media_type)
            stages.end("track")
            return replace(reply, timing=stages.milliseconds())

    async def _alone(self, predictor: Any, stages: Stages, progress: Progress, volume: Volume) -> Prediction:
        """Run a network on an image, and hold nothing after that."""
        async with AsyncExitStack() as stack:
            prediction, _ = await self._predicted(predictor, volume, stages, stack, progress)
            return prediction
