"""What a model says of an image, and how one is asked for it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from medray.errors import InputError
from medray.imaging.labels import LabelSchema
from medray.imaging.volume import Volume
from medray.inference.certainty import Certainty
from medray.preprocessing.blocks import Blocks
from medray.tasks.answer import Answer
from medray.types import Affine, Shape, Voxels

__all__ = ["Asked", "Prediction", "Unwanted", "dated", "predicted", "volumes_of"]


class Unwanted(Exception):  # noqa: N818 - nothing went wrong
    """Nobody waits for the answer any more."""


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """A result on the image's own grid.

    Attributes:
        answer: What the task says.
        shape: The source grid's voxels along I, J, K.
        affine: The source grid's.
        volumes_ml: Of a segmentation: target to volume in millilitres.
        values: Of a segmentation: target to its value in the mask, in the order of channels where there are several; of a
            progression: transition to its value.
        latencies: Stage to seconds: ``preprocess``, ``network``, ``postprocess``.
        likely: Of a segmentation that was asked for it (`Predictor.keeping`): target to how probable it is at each voxel,
            ``(I, J, K)`` uint8, 255 standing for certainty.
        certainty: How sure the model is; None where it doesn't say.
        embedding: What the network's deepest layer made of the image ``(F,)``, the mean over windows; None where it has none.
    """

    answer: Answer
    shape: Shape
    affine: Affine
    volumes_ml: Mapping[str, float]
    values: Mapping[str, int]
    latencies: Mapping[str, float]
    likely: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)
    certainty: Certainty | None = None
    embedding: NDArray[np.float32] | None = None

    @property
    def mask(self) -> Volume:
        """Of a segmentation: uint8 label values in one channel or, where targets overlap, a channel of 0 and 1 for each.

        Raises:
            InputError: If the model is for something else.
        """
        return self._volume(self.answer.mask, "mask")

    @property
    def image(self) -> Volume:
        """The mask or, of a diagnosis, how much each voxel speaks for each target: float32, 0 to 1, a channel a target.

        Raises:
            InputError: If the model gives neither.
        """
        return self._volume(self.answer.saliency if self.answer.mask is None else self.answer.mask, "image")

    def plain(self) -> dict[str, Any]:
        """Return what the task says as JSON-ready data, images left out."""
        if self.answer.courses:
            return {"courses": {name: course.plain() for name, course in self.answer.courses.items()}}
        if self.answer.mask is not None:
            return {"volumes_ml": {name: round(value, 4) for name, value in self.volumes_ml.items()}}
        if self.answer.probabilities:
            return {"probabilities": {name: round(value, 6) for name, value in self.answer.probabilities.items()}}
        return {"boxes": [box.plain(self.affine) for box in self.answer.boxes]}

    def _volume(self, voxels: Voxels | None, what: str) -> Volume:
        if voxels is None:
            raise InputError(f"this model gives no {what}: ask for json")
        return Volume(voxels, self.affine)


class Asked(Protocol):
    """What predicts; see `Predictor`."""

    def prepare(self, volume: Volume) -> NDArray[np.float32]:
        """Return what the network is shown of an image."""
        ...

    def activate(self, images: Sequence[NDArray[np.float32]]) -> Iterator[tuple[int, Blocks]]:
        """Run the network on prepared images."""
        ...

    def finish(self, blocks: Blocks, volume: Volume, prepared: NDArray[np.float32]) -> Prediction:
        """Bring what the network says onto the image's own grid."""
        ...


def predicted(asked: Asked, volume: Volume) -> Prediction:
    """Predict on one image alone, and say how long each stage took."""
    started = time.perf_counter()
    prepared = asked.prepare(volume)
    ready = time.perf_counter()
    [(_, blocks)] = asked.activate([prepared])
    begun = time.perf_counter()
    prediction = asked.finish(blocks, volume, prepared)
    network = begun - ready + prediction.latencies["network"]
    return replace(prediction, latencies={"preprocess": ready - started, **prediction.latencies, "network": network})


def dated(answer: Answer, volume: Volume) -> Answer:
    """Return an answer whose courses, if it has any, know over how many years a pair of scans goes."""
    years = float(volume.meta["years"]) if "years" in volume.meta else None
    return replace(answer, courses={name: course.over(years) for name, course in answer.courses.items()})


def volumes_of(mask: Voxels | None, values: Mapping[str, int], voxel_ml: float, *, regions: bool) -> dict[str, float]:
    """Return each target's volume in millilitres.

    Args:
        mask: Of an `Answer`; without one there are no volumes.
        values: Target to its value in the mask, in the order of channels where there are several.
        voxel_ml: Of one voxel.
        regions: Whether targets have a channel of 0 and 1 each.
    """
    if mask is None:
        return {}
    if not regions:
        return LabelSchema(values).volumes_ml(mask[0], voxel_ml)
    counts = mask.sum(axis=(1, 2, 3), dtype=np.int64)
    return {name: float(count * voxel_ml) for name, count in zip(values, counts, strict=True)}
