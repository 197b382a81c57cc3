"""What an affine leaves over: smooth displacements of the common space, by local correlation, that prefer no time point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk  # noqa: N813 - its own manual's name for it
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates, minimum_filter, uniform_filter

from medray.imaging.geometry import to_world
from medray.progression.midway import inverse
from medray.progression.register import itk_grid
from medray.types import Affine, Shape

__all__ = ["Warp", "warps_of"]

LEVELS = ((8.0, 40), (4.0, 40), (2.0, 15))
"""Spacings in mm of the images that are compared, and steps on each."""
MOST_VOXELS = 16_000_000
"""Of all images together: a step on as many takes some ten seconds of a core."""
WINDOW = 9
"""Voxels along each side of what is correlated: as far as scanners' contrast and bias count as constant."""
STEP = 0.5
"""Voxels that a step moves at most."""
FLUID, ELASTIC = 2.0, 1.0
"""Voxels by which a step is smoothed, and all steps together after each."""
FAINT = 1e-6
"""Least product of two windows' variances, of images whose deviation is 1: less shows nothing."""
ROUNDS = 12
"""Of undoing a displacement; each makes the rest smaller by the displacement's steepest slope."""

Field = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Warp:
    """A displacement of the common space.

    Attributes:
        field_mm: ``(3, I, J, K)``, float32, LPS mm.
        affine: ``(4, 4)`` of its grid.
    """

    field_mm: NDArray[np.float32]
    affine: Affine

    def moved(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Move points ``(N, 3)`` in the common space's LPS mm; beyond the grid as at its border."""
        places = to_world(inverse(self.affine), points).T
        steps = [map_coordinates(axis, places, order=1, mode="nearest") for axis in self.field_mm]
        return np.asarray(points + np.stack(steps, axis=-1))

    def unmoved(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Undo `moved`, by fixed-point iteration."""
        found = points
        for _ in range(ROUNDS):
            found = found + (points - self.moved(found))
        return found

    def itk(self) -> sitk.Transform:
        """Return it as ITK's; nothing moves beyond the grid."""
        image = sitk.GetImageFromArray(self.field_mm.transpose(3, 2, 1, 0).astype(np.float64), isVector=True)
        image.CopyInformation(itk_grid(self.affine, (self.field_mm.shape[1], self.field_mm.shape[2], self.field_mm.shape[3])))
        return sitk.DisplacementFieldTransform(image)


def warps_of(images: Sequence[sitk.Image], transforms: Sequence[sitk.Transform], affine: Affine, shape: Shape) -> list[Warp]:
    """Find how each image differs from what all have in common, beyond its own transform.

    From coarse to fine, each image takes small steps towards the mean of the others along the gradient of their correlation in
    windows (Avants et al., Medical Image Analysis 12 (2008) 26-41, equations 5 and 6), which holds whatever contrast and bias a
    scanner has. What the displacements have in common is taken out (Guimond et al., Computer Vision and Image Understanding 77
    (2000) 192-210), so that no time point is preferred.

    Args:
        images: Two or more.
        transforms: For each, from the common space to the image.
        affine: Of a grid in the common space that holds them all.
        shape: Of that grid.
    """
    warps = [Warp(np.zeros((3, 1, 1, 1), np.float32), affine) for _ in images]
    mm3 = float(np.prod(np.array(shape) * np.diag(affine)[:3]))
    finest = (len(images) * mm3 / MOST_VOXELS) ** (1 / 3)
    for spacing_mm, steps in LEVELS:
        grid = _coarse(affine, shape, max(spacing_mm, finest))
        placed = np.diag([*grid.GetSpacing(), 1.0])
        placed[:3, 3] = grid.GetOrigin()
        seen = [_shown(image, grid, way) for image, way in zip(images, transforms, strict=True)]
        common = np.all([_held(image, grid, way) for image, way in zip(images, transforms, strict=True)], axis=0)
        inside = minimum_filter(common, WINDOW).astype(np.float32)
        fields = [_on_grid(warp, grid) for warp in warps]
        for _ in range(steps):
            fields = _stepped(seen, fields, inside, np.array(grid.GetSpacing(), np.float32))
        warps = [Warp(field, placed) for field in fields]
    return warps


def _stepped(seen: Sequence[Field], fields: Sequence[Field], inside: Field, spacing: Field) -> list[Field]:
    """Return the displacements after a step of each image."""
    shown = [_bent(one, field, spacing) for one, field in zip(seen, fields, strict=True)]
    total = np.sum(shown, axis=0)
    moved = []
    for one, field in zip(shown, fields, strict=True):
        force = _smooth(_force((total - one) / (len(shown) - 1), one, spacing) * inside, FLUID)
        most = float(np.linalg.norm(force / spacing[:, None, None, None], axis=0).max())
        moved.append(_after(force * np.float32(STEP / max(most, FAINT)), field, spacing))
    mean = np.mean(moved, axis=0)
    return [_smooth(field - mean, ELASTIC) for field in moved]


def _force(fixed: Field, moving: Field, spacing: Field) -> Field:
    """Return ``(3, I, J, K)``: which way the moving image's voxels look better, by correlation in windows."""
    first, second = fixed - uniform_filter(fixed, WINDOW), moving - uniform_filter(moving, WINDOW)
    both, one, other = (uniform_filter(a * b, WINDOW) for a, b in ((first, second), (first, first), (second, second)))
    variances = one * other
    shown = variances > FAINT
    pull = np.where(shown, both / np.where(shown, variances, 1) * (first - both / np.where(shown, other, 1) * second), 0)
    slopes = np.stack([np.gradient(moving, axis=axis) for axis in range(3)])
    return np.asarray(pull * slopes / spacing[:, None, None, None], np.float32)


def _after(step: Field, field: Field, spacing: Field) -> Field:
    """Return the displacement of moving by a step first, then by a field on the same grid."""
    return step + np.stack([_bent(axis, step, spacing, mode="nearest") for axis in field])


def _bent(values: Field, field: Field, spacing: Field, mode: str = "constant") -> Field:
    """Return what lies where a displacement leads; beyond the grid nought or, with ``nearest``, what is at its border."""
    places = np.indices(values.shape, dtype=np.float32) + field / spacing[:, None, None, None]
    return np.asarray(map_coordinates(values, places, order=1, mode=mode), np.float32)


def _smooth(field: Field, voxels: float) -> Field:
    return np.stack([gaussian_filter(axis, voxels, mode="nearest", truncate=3) for axis in field])


def _on_grid(warp: Warp, grid: sitk.Image) -> Field:
    """Return a displacement on another grid."""
    size = grid.GetSize()
    places = np.indices(size, dtype=np.float64).reshape(3, -1).T * grid.GetSpacing() + grid.GetOrigin()
    return np.asarray((warp.moved(places) - places).T.reshape(3, *size), np.float32)


def _coarse(affine: Affine, shape: Shape, spacing_mm: float) -> sitk.Image:
    """Return a grid over the same space of such a spacing, or of its own where that is coarser."""
    spacing = np.maximum(spacing_mm, np.diag(affine)[:3])
    size = np.ceil((np.array(shape) - 1) * np.diag(affine)[:3] / spacing).astype(int) + 1
    placed = np.diag([*spacing, 1.0])
    placed[:3, 3] = affine[:3, 3]
    return itk_grid(placed, (int(size[0]), int(size[1]), int(size[2])))


def _shown(image: sitk.Image, grid: sitk.Image, way: sitk.Transform) -> Field:
    """Return ``(I, J, K)``: an image on a grid, as fine as that can show, its deviation one; nought stays nought."""
    smooth = sitk.SmoothingRecursiveGaussian(image, [step / 2 for step in grid.GetSpacing()])
    values = sitk.GetArrayFromImage(sitk.Resample(smooth, grid, way, sitk.sitkLinear, 0.0)).transpose(2, 1, 0)
    shown = values[values != 0]
    return np.ascontiguousarray(values / max(float(shown.std()), FAINT) if shown.size else values, np.float32)


def _held(image: sitk.Image, grid: sitk.Image, way: sitk.Transform) -> NDArray[np.bool_]:
    """Return ``(I, J, K)``: which voxels of a grid an image holds."""
    ones = itk_grid(np.eye(4), image.GetSize()) + 1
    ones.CopyInformation(image)
    held = sitk.Resample(ones, grid, way, sitk.sitkNearestNeighbor, 0.0)
    return np.asarray(sitk.GetArrayFromImage(held).transpose(2, 1, 0) > 0)
