"""How long and how wide a lesion is in the slices of its scan, as RECIST asks for."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull, QhullError

from medray.imaging.geometry import spacing_mm
from medray.types import Affine

__all__ = ["Diameters", "diameters_of", "slice_axis"]

Points = NDArray[np.float64]
PIXELS = 0.45
"""Root mean square error of a diameter, in pixels: of ellipsoids of 3 to 12 mm that lie anyhow on grids of 0.7 to 1.2 mm."""
SQUARE = 0.01
"""Relative difference below which two spacings are one: pixels are square."""


@dataclass(frozen=True, slots=True)
class Diameters:
    """Of a lesion, in the slice where it is longest.

    Attributes:
        longest_mm: Between the two points of its outline that are farthest apart.
        perpendicular_mm: Its extent at right angles to that, in the same slice.
        slice_index: Along the slice axis of the scan.
        deviation_mm: Standard deviation of either, by the size of pixels.
    """

    longest_mm: float
    perpendicular_mm: float
    slice_index: int
    deviation_mm: float


def slice_axis(affine: Affine) -> int:
    """Return the voxel axis across slices: the one whose spacing is not the others' or, where none is, the body's own."""
    spacing = np.array(spacing_mm(affine))
    for axis in range(3):
        one, other = np.delete(spacing, axis)
        if abs(one - other) < SQUARE * one <= abs(spacing[axis] - one):
            return axis
    return int(np.argmax(np.abs(affine[2, :3]) / spacing))


def diameters_of(indices: NDArray[np.intp], affine: Affine) -> Diameters:
    """Measure a lesion.

    Its outline runs halfway between voxels inside and outside. Diameters lie in a slice: RECIST 1.1's "longest diameter
    in the plane of measurement" (Eisenhauer et al., European Journal of Cancer 45 (2009) 228-247).

    Args:
        indices: ``(N, 3)``, its voxels.
        affine: ``(4, 4)``, of their grid.
    """
    across = slice_axis(affine)
    plane = [axis for axis in range(3) if axis != across]
    directions = affine[:3, plane]
    deviation = PIXELS * float(np.mean(np.array(spacing_mm(affine))[plane]))
    best = Diameters(0.0, 0.0, int(indices[0, across]), deviation)
    for number in np.unique(indices[:, across]):
        outline = _outline(indices[indices[:, across] == number][:, plane]) @ directions.T
        longest, perpendicular = _measured(outline)
        if longest > best.longest_mm:
            best = Diameters(longest, perpendicular, int(number), deviation)
    return best


def _outline(pixels: NDArray[np.intp]) -> Points:
    """Return the middles of pixels' edges ``(4 N, 2)``: the convex hull's corners are among them."""
    halves = np.array([[0.5, 0], [-0.5, 0], [0, 0.5], [0, -0.5]])
    return np.asarray((pixels[:, None] + halves).reshape(-1, 2))


def _measured(points: Points) -> tuple[float, float]:
    flat = points - points.mean(axis=0)
    _, _, axes = np.linalg.svd(flat, full_matrices=False)
    inplane = flat @ axes[:2].T
    with suppress(QhullError):  # all in one line
        inplane = inplane[ConvexHull(inplane).vertices]
    apart = np.linalg.norm(inplane[:, None] - inplane[None], axis=-1)
    a, b = np.unravel_index(int(apart.argmax()), apart.shape)
    along = (inplane[b] - inplane[a]) / max(float(apart[a, b]), 1e-12)
    sideways = inplane @ np.array([-along[1], along[0]])
    return float(apart[a, b]), float(np.ptp(sideways))
