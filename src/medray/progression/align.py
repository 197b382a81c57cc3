"""Bring a patient's scans into a space midway between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import SimpleITK as sitk  # noqa: N813 - its own manual's name for it
from numpy.typing import NDArray

from medray.errors import ImageError
from medray.imaging.geometry import to_world
from medray.imaging.volume import Volume
from medray.progression.lesions import Points
from medray.progression.midway import inverse, midway, pairs_of
from medray.progression.register import Registered, itk_grid, itk_image, itk_transform, register
from medray.progression.warp import Warp, warps_of
from medray.types import Affine, Shape

__all__ = ["Alignment", "align"]

LEAST_SIDE = 5
"""Voxels along each axis."""
LEAST_LIKENESS = 0.3
MOST_INCONSISTENT_MM = 2.0
"""Beyond these, two scans don't fit: of one head they are 0.6 and more, and a tenth of that."""
MOST_VOXELS = 1 << 26
"""Of the common space's grid: a chest in a whole body's field of view would be 2,000 million."""


@dataclass(frozen=True, slots=True, eq=False)
class Alignment:
    """Time points in one space.

    Attributes:
        matrices: For each time point, ``(4, 4)`` from the common space's LPS mm to the image's.
        warps: For each time point, what moves the common space before that; empty where nothing does.
        affine: Of a grid in the common space that holds them all.
        shape: Of that grid.
        pairs: For each pair of time points, how well they fit.
    """

    matrices: tuple[Affine, ...]
    warps: tuple[Warp, ...]
    affine: Affine
    shape: Shape
    pairs: dict[tuple[int, int], Registered]

    def between(self, first: int, second: int) -> Affine:
        """Return ``(4, 4)`` from one time point's LPS mm to another's, warps left out."""
        return np.asarray(self.matrices[second] @ inverse(self.matrices[first]))

    def scale(self, first: int, second: int) -> float:
        """Return by what factor volumes are larger at the second time point: the affine's determinant.

        A scanner whose gradients have drifted shows all of a head larger or smaller; so much of a change is none.
        """
        return float(np.linalg.det(self.between(first, second)[:3, :3]))

    def gathered(self, time_point: int, points: Points) -> Points:
        """Take points ``(N, 3)`` from a time point's LPS mm to the common space's."""
        points = to_world(inverse(self.matrices[time_point]), points)
        return self.warps[time_point].unmoved(points) if self.warps else points

    def carried(self, first: int, second: int, points: Points) -> Points:
        """Take points ``(N, 3)`` from one time point's LPS mm to another's."""
        points = self.gathered(first, points)
        return to_world(self.matrices[second], self.warps[second].moved(points) if self.warps else points)

    def sampled(self, time_point: int, volume: Volume, affine: Affine, shape: Shape, *, order: int = 1) -> NDArray[np.float32]:
        """Sample an image of a time point on a grid of the common space.

        Args:
            time_point: Of the image.
            volume: Of one channel.
            affine: Of the grid.
            shape: Of the grid.
            order: 0 for labels, 1 for linear, 3 for a cubic spline.

        Returns:
            ``(I, J, K)``, float32; 0 outside of the image.
        """
        how = {0: sitk.sitkNearestNeighbor, 1: sitk.sitkLinear, 3: sitk.sitkBSpline}[order]
        way: sitk.Transform = itk_transform(self.matrices[time_point])
        if self.warps:
            way = sitk.CompositeTransform([way, self.warps[time_point].itk()])
        found = sitk.Resample(itk_image(volume), itk_grid(affine, shape), way, how, 0.0, sitk.sitkFloat32)
        return np.asarray(sitk.GetArrayFromImage(found).transpose(2, 1, 0))


def align(images: Sequence[Volume], names: Sequence[str], *, warp: bool = False) -> Alignment:
    """Align time points of a patient; which comes first makes no difference.

    Args:
        images: Two or more of one channel, on any grids.
        names: Of each, for people.
        warp: Whether they are bent, too, where an affine doesn't fit: soft organs, a brain after surgery.

    Raises:
        ImageError: ``not-alignable``, with the reason, if two of them don't fit: another patient or body part, or too little in
            common.
    """
    for name, image in zip(names, images, strict=True):
        if min(image.shape) < LEAST_SIDE or image.voxels.min() == image.voxels.max():
            why = f"{name} is too thin to align, or shows nothing: give a volume of {LEAST_SIDE} slices or more"
            raise ImageError("not-alignable", why)
    small = [itk_image(image) for image in images]
    pairs = {(i, j): _checked(register(small[i], small[j]), names[i], names[j]) for i, j in pairs_of(len(images))}
    matrices = midway({pair: found.matrix for pair, found in pairs.items()}, len(images))
    affine, shape = _grid(images, matrices)
    warps = warps_of(small, [itk_transform(matrix) for matrix in matrices], affine, shape) if warp else []
    return Alignment(tuple(matrices), tuple(warps), affine, shape, pairs)


def _checked(found: Registered, first: str, second: str) -> Registered:
    """Refuse what doesn't fit."""
    who = f"{first} and {second}"
    if found.likeness < LEAST_LIKENESS:
        least = f"likeness {found.likeness:.2f}, at least {LEAST_LIKENESS}"
        why = f"{who} show too little in common ({least}): are they of one patient?"
        raise ImageError("not-alignable", why)
    if found.inconsistent_mm > MOST_INCONSISTENT_MM:
        off = f"there and back again ends {found.inconsistent_mm:.1f} mm away"
        why = f"{who} fit in more than one way ({off}): give scans that show more of the same region"
        raise ImageError("not-alignable", why)
    return found


def _grid(images: Sequence[Volume], matrices: Sequence[Affine]) -> tuple[Affine, Shape]:
    """Return a grid along LPS that holds all images, as fine as the finest of them and as `MOST_VOXELS` let it be."""
    ends = []
    for image, matrix in zip(images, matrices, strict=True):
        corners = np.array(list(product(*((0, side - 1) for side in image.shape))), dtype=np.float64)
        ends.append(to_world(inverse(matrix), to_world(image.affine, corners)))
    everything = np.concatenate(ends)
    low, high = everything.min(axis=0), everything.max(axis=0)
    spacing = min(min(image.spacing_mm) for image in images)
    spacing *= max(1.0, float(np.prod((high - low) / spacing) / MOST_VOXELS)) ** (1 / 3)
    i, j, k = (int(side) for side in np.ceil((high - low) / spacing) + 1)
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = low
    return affine, (i, j, k)
