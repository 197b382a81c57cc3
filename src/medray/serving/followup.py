"""A patient's scans in a replica: read, seen by the model one after another, and compared."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
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
from medray.serving.ticket import Ticket
from medray.serving.tracking import TRACKERS, Means, visited
from medray.serving.witness import Told

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
        tell: Records a prediction.
    """

    def __init__(
        self,
        shelf: Shelf[Predictor | BundlePredictor],
        scans: Scans,
        predicted: Predicted,
        by_hand: Callable[[Callable[[], Any]], Awaitable[Any]],
        tell: Callable[[Told], Awaitable[None]],
    ) -> None:
        self._shelf = shelf
        self._scans = scans
        self._predicted = predicted
        self._by_hand = by_hand
        self._tell = tell

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
            came = zip(visits, scans, patient.scans, strict=True)
            known = {id(visit.image): _told(version, predictor, files, scan) for visit, files, scan in came}
            aligned = _told(version, predictor)
            predict = partial(self._alone, watchful(predictor, patient.how), stages, progress, known, aligned)
            means = Means(predict, self._by_hand, stages)
            reply = await TRACKERS[predictor.task](means, visits, patient, version, media_type)
            stages.end("track")
            return replace(reply, timing=stages.milliseconds())

    async def _alone(
        self, predictor: Any, stages: Stages, progress: Progress, known: Mapping[int, Told], aligned: Told, volume: Volume
    ) -> Prediction:
        """Run a network on an image, hold nothing after that, and record what it said."""
        async with AsyncExitStack() as stack:
            prediction, together = await self._predicted(predictor, volume, stages, stack, progress)
        latencies = {stage: 1000 * seconds for stage, seconds in prediction.latencies.items()}
        facts = replace(known.get(id(volume), aligned), ticket=Ticket(), latencies=latencies)
        await self._tell(replace(facts, volume=volume, prediction=prediction, together=together))
        return prediction


def _told(version: str, predictor: Any, files: Sequence[bytes] = (), scan: bytes | Reference = b"") -> Told:
    """Return what there is to tell of a scan before it is seen; one that was aligned to another is no file's any more."""
    said = scan if isinstance(scan, Reference) else None
    return Told(Ticket(), version, predictor.task, files, plan=getattr(predictor, "plan", None), reference=said)
