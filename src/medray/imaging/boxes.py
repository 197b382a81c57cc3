"""Boxes around things in an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medray.imaging.geometry import Orientation, to_world
from medray.types import Affine, Shape, Triple

__all__ = ["Box", "corners", "triple"]


@dataclass(frozen=True, slots=True)
class Box:
    """A box whose sides run along an image's axes.

    Attributes:
        label: Of what is inside.
        low: Its lower corner in voxel coordinates I, J, K, where voxel n reaches from n - 0.5 to n + 0.5.
        high: Its upper corner.
        score: How sure, 0 to 1; 1 for the truth.
    """

    label: str
    low: Triple
    high: Triple
    score: float = 1.0

    def scaled(self, shape: Shape, new_shape: Shape) -> Box:
        """Return the same box where the same field of view has other voxels."""
        factor = np.array(new_shape) / np.array(shape)
        ends = [(np.array(end) + 0.5) * factor - 0.5 for end in (self.low, self.high)]
        return replace(self, low=triple(ends[0]), high=triple(ends[1]))

    def shifted(self, by: Sequence[float]) -> Box:
        """Return the same box moved by so many voxels."""
        return replace(self, low=triple(np.add(self.low, by)), high=triple(np.add(self.high, by)))

    def reoriented(self, orientation: Orientation, shape: Shape) -> Box:
        """Return the box in the image that ``orientation`` makes of one of ``shape``."""
        ends = [np.array(end)[list(orientation.axes)] for end in (self.low, self.high)]
        sizes = np.array(shape)[list(orientation.axes)] - 1
        turned = [np.where(orientation.flips, sizes - end, end) for end in ends]
        return replace(self, low=triple(np.minimum(*turned)), high=triple(np.maximum(*turned)))

    def plain(self, affine: Affine) -> dict[str, Any]:
        """Return JSON-ready data: centre in LPS mm, size in mm along the image's axes, corners in voxels."""
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        centre = to_world(affine, np.add(self.low, self.high) / 2)
        return {
            "label": self.label,
            "score": round(self.score, 4),
            "centre_mm": [round(float(value), 2) for value in centre],
            "size_mm": [round(float(value), 2) for value in np.subtract(self.high, self.low) * spacing],
            "voxels": [[round(value, 2) for value in end] for end in (self.low, self.high)],
        }


def corners(boxes: Sequence[Box]) -> NDArray[np.float64]:
    """Return lower and upper corners, ``(N, 2, 3)``."""
    return np.array([(box.low, box.high) for box in boxes], np.float64).reshape(-1, 2, 3)


def triple(values: Sequence[float] | NDArray[np.float64]) -> Triple:
    """Return three plain numbers."""
    i, j, k = (float(value) for value in values)
    return i, j, k
