"""Affines, orientations and grids.

An affine maps voxel indices to LPS millimetres, with voxel centres at integer indices. Reorientation is a signed
permutation of axes: it moves no voxel in the world, and so it is exact and has an exact inverse.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medray.errors import ImageError
from medray.types import Affine, Shape, Triple, Voxels

__all__ = [
    "RAS_TO_LPS",
    "Orientation",
    "axis_codes",
    "checked_affine",
    "closest_lps",
    "directions",
    "resampled_affine",
    "resampled_shape",
    "same_grid",
    "spacing_mm",
    "to_world",
]

RAS_TO_LPS: Affine = np.diag([-1.0, -1.0, 1.0, 1.0])
"""Left-multiply a RAS affine with this to get LPS, and the other way round."""

MAX_SPACING_MM = 1000.0
MIN_SPACING_MM = 1e-4


@dataclass(frozen=True, slots=True)
class Orientation:
    """A signed permutation of the three voxel axes.

    Attributes:
        axes: For each output axis, the input axis that it comes from.
        flips: For each output axis, whether it runs backwards.
    """

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    def apply(self, voxels: Voxels) -> Voxels:
        """Permute and flip the last three axes; returns a view, never a copy."""
        lead = voxels.ndim - 3
        moved = voxels.transpose(*range(lead), *(lead + axis for axis in self.axes))
        steps = tuple(slice(None, None, -1) if flip else slice(None) for flip in self.flips)
        return moved[(..., *steps)]

    def apply_affine(self, affine: Affine, shape: Shape) -> Affine:
        """Return the affine of `apply`'s result for an input of ``shape`` (I, J, K)."""
        index = np.zeros((4, 4))
        index[3, 3] = 1.0
        for out, (axis, flip) in enumerate(zip(self.axes, self.flips, strict=True)):
            index[axis, out] = -1.0 if flip else 1.0
            index[axis, 3] = shape[axis] - 1.0 if flip else 0.0
        return affine @ index

    @property
    def inverse(self) -> Orientation:
        """The orientation that undoes this one."""
        back = tuple(self.axes.index(axis) for axis in range(3))
        flips = tuple(self.flips[out] for out in back)
        return Orientation((back[0], back[1], back[2]), (flips[0], flips[1], flips[2]))


def checked_affine(affine: ArrayLike) -> Affine:
    """Return the affine as float64 ``(4, 4)``.

    Raises:
        ImageError: If it isn't finite, is singular, or has spacings outside 0.1 µm to 1 m.
    """
    matrix = np.asarray(affine, dtype=np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise ImageError("bad-affine", "the affine has missing or non-finite entries; the file's geometry is unusable")
    lengths = np.linalg.norm(matrix[:3, :3], axis=0)
    if lengths.min() < MIN_SPACING_MM or lengths.max() > MAX_SPACING_MM:
        text = ", ".join(f"{length:g}" for length in lengths)
        raise ImageError("bad-affine", f"the voxel spacing ({text}) mm is not one of a scan")
    if abs(np.linalg.det(matrix[:3, :3] / lengths)) < 1e-3:
        raise ImageError("bad-affine", "the affine is singular: two voxel axes point the same way")
    return matrix


def spacing_mm(affine: Affine) -> Triple:
    """Return the distance between voxel centres along I, J, K in mm."""
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    return float(lengths[0]), float(lengths[1]), float(lengths[2])


def directions(affine: Affine) -> NDArray[np.float64]:
    """Return the unit vectors, ``(3, 3)``, along which I, J, K run in LPS: a row each."""
    along: NDArray[np.float64] = (affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)).T
    return along


def to_world(affine: Affine, indices: ArrayLike) -> NDArray[np.float64]:
    """Map voxel indices ``(..., 3)`` to LPS mm ``(..., 3)``."""
    points = np.asarray(indices, dtype=np.float64)
    return points @ affine[:3, :3].T + affine[:3, 3]


def closest_lps(affine: Affine) -> Orientation:
    """Return the reorientation after which I runs to L, J to P and K to S, as nearly as it can.

    Of the six permutations the one with the largest sum of absolute direction cosines wins, so that an oblique
    scan gets the assignment that is best as a whole.
    """
    cosines = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    best = max(permutations(range(3)), key=lambda axes: sum(abs(cosines[out, axis]) for out, axis in enumerate(axes)))
    flips = [bool(cosines[out, axis] < 0) for out, axis in enumerate(best)]
    return Orientation((best[0], best[1], best[2]), (flips[0], flips[1], flips[2]))


def axis_codes(affine: Affine) -> str:
    """Return where each voxel axis points, such as ``"LPS"`` or ``"RAS"``, to the nearest letter."""
    orientation = closest_lps(affine)
    letters = ["?", "?", "?"]
    for out, (axis, flip) in enumerate(zip(orientation.axes, orientation.flips, strict=True)):
        letters[axis] = ("RAI" if flip else "LPS")[out]
    return "".join(letters)


def resampled_shape(shape: Shape, spacing: Triple, new_spacing: Triple) -> Shape:
    """Return how many voxels of ``new_spacing`` cover the same field of view, at least one an axis."""
    i, j, k = (max(1, round(n * old / new)) for n, old, new in zip(shape, spacing, new_spacing, strict=True))
    return i, j, k


def resampled_affine(affine: Affine, shape: Shape, new_shape: Shape) -> Affine:
    """Return the affine of the same field of view cut into ``new_shape`` voxels.

    The outer faces of the corner voxels stay where they are (not their centres), so that resampling to a grid
    and back gives the grid that one started from.
    """
    scale = np.array([n / m for n, m in zip(shape, new_shape, strict=True)])
    result = affine.copy()
    result[:3, :3] = affine[:3, :3] * scale
    result[:3, 3] = affine[:3, 3] + affine[:3, :3] @ (scale / 2 - 0.5)
    return result


def same_grid(first: Affine, second: Affine, shape: Shape, tolerance_mm: float = 1e-2) -> bool:
    """Tell whether two affines put every voxel of ``shape`` within ``tolerance_mm`` of each other."""
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape], indexing="ij")).reshape(3, -1).T
    return bool(np.abs(to_world(first, corners) - to_world(second, corners)).max() <= tolerance_mm)
