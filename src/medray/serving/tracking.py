"""A patient's scans in a pool's replica: what each kind of model says of them, and what changed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from medray.errors import InputError
from medray.formats.image import dicom_files, read_image_files
from medray.imaging.volume import Volume
from medray.inference.prediction import Prediction
from medray.progression.courses import Courses
from medray.progression.pair import pairs_in_turn
from medray.progression.track import day_of, label_map_of, patient_of, segmented, series_of
from medray.progression.visit import Visit
from medray.serving.histories import courses_reply, history_reply
from medray.serving.patient import Patient
from medray.serving.results import Reply
from medray.serving.stages import Stages

__all__ = ["TRACKERS", "Means", "Tracker", "visited"]


@dataclass(frozen=True, slots=True)
class Means:
    """What a replica tells change with.

    Attributes:
        predict: Runs the model on a volume.
        by_hand: Runs slow work in a thread.
        stages: Take how long each part took.
    """

    predict: Callable[[Volume], Awaitable[Prediction]]
    by_hand: Callable[[Callable[[], Any]], Awaitable[Any]]
    stages: Stages


class Tracker(Protocol):
    """Answers for a patient by one kind of model."""

    async def __call__(self, means: Means, visits: Sequence[Visit], patient: Patient, version: str, media_type: str) -> Reply:
        """Say what changed; media types are those of `medray.serving.patient.HISTORIES`."""
        ...


async def visited(scans: Sequence[Sequence[bytes]], days: Sequence[float | None]) -> list[Visit]:
    """Read a patient's scans.

    Args:
        scans: The files of each.
        days: When each was made; by its DICOM header where None.

    Raises:
        ImageError: If one can't be read.
        InputError: If nothing says when one was made.
    """
    both = enumerate(zip(scans, days, strict=True), start=1)
    return [await asyncio.to_thread(_visit, number, files, day) for number, (files, day) in both]


def _visit(number: int, files: Sequence[bytes], day: float | None) -> Visit:
    image = read_image_files(files)
    try:
        inside = dicom_files(files)
    except InputError:  # it is of another format
        inside = []
    return Visit(f"scan {number}", day_of(inside) if day is None else day, image, series_of(inside), patient_of(inside))


async def _by_segmentation(means: Means, visits: Sequence[Visit], patient: Patient, version: str, media_type: str) -> Reply:
    """Have each scan segmented alone, and measure."""
    found = [await means.predict(visit.image) for visit in visits]
    points = [segmented(visit, said) for visit, said in zip(visits, found, strict=True)]
    names, _ = label_map_of(found[0])
    reply: Reply = await means.by_hand(partial(history_reply, points, names, patient.how, version, media_type))
    return reply


async def _by_progression(means: Means, visits: Sequence[Visit], patient: Patient, version: str, media_type: str) -> Reply:
    """Align each scan with the next, and have each pair seen by the model."""
    patient.how.require_plain()
    ordered, pairs = await means.by_hand(partial(pairs_in_turn, visits))
    means.stages.end("track")
    said = [await means.predict(pair.image) for pair in pairs]
    reply: Reply = await means.by_hand(partial(courses_reply, Courses(ordered, pairs, said), version, media_type))
    return reply


TRACKERS: dict[str, Tracker] = {"segmentation": _by_segmentation, "progression": _by_progression}
"""Task of a model to how it tells change."""
