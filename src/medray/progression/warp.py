"""What an affine leaves over: smooth displacements of the common space, found by B-splines, that prefer no time point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk  # noqa: N813 - its own manual's name for it
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from medray.imaging.geometry import to_world
from medray.progression.midway import inverse
from medray.progression.register import itk_grid, metric_of
from medray.types import Affine, Shape

__all__ = ["Warp", "warps_of"]

MESH_MM = 40.0
"""Between the B-splines' knots at first; half of it, and a quarter, later."""
FINER = (1, 2, 4)
SPACING_MM = 2.0
"""Of the images that are compared, and of what is kept of the result."""
ITERATIONS = 25
SHARPENED = 2
"""Rounds: the mean of images that lie on each other is sharper than the first one, and says more of where they don't."""
ROUNDS = 12
"""Of undoing a displacement; each makes the rest smaller by the displacement's steepest slope."""


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

    Each is registered with the mean of all (Guimond et al., Computer Vision and Image Understanding 77 (2000) 192-210), by
    mutual information of free-form deformations (Rueckert et al., IEEE TMI 18 (1999) 712-721). What the displacements have in
    common is taken out, so that no time point is preferred.

    Args:
        images: Two or more.
        transforms: For each, from the common space to the image.
        affine: Of a grid in the common space that holds them all.
        shape: Of that grid.
    """
    grid = _coarse(affine, shape)
    placed = np.diag([*grid.GetSpacing(), 1.0])
    placed[:3, 3] = grid.GetOrigin()
    warps = [Warp(np.zeros((3, *grid.GetSize()), np.float32), placed) for _ in images]
    for _ in range(SHARPENED):
        ways = [sitk.CompositeTransform([found, warp.itk()]) for found, warp in zip(transforms, warps, strict=True)]
        seen = [sitk.Resample(image, grid, way, sitk.sitkLinear, 0.0) for image, way in zip(images, ways, strict=True)]
        mean = sitk.GetImageFromArray(np.mean([_even(sitk.GetArrayFromImage(one)) for one in seen], axis=0))
        mean.CopyInformation(grid)
        steps = [Warp(_field(mean, one), placed) for one in seen]
        fields = np.stack([_after(step, warp) for step, warp in zip(steps, warps, strict=True)])
        warps = [Warp(field, placed) for field in fields - fields.mean(axis=0)]
    return warps


def _after(step: Warp, warp: Warp) -> NDArray[np.float32]:
    """Return the displacement of moving by a step first, then by a warp on the same grid."""
    spacing = np.diag(step.affine)[:3, None, None, None]
    places = np.indices(step.field_mm.shape[1:], dtype=np.float32) + step.field_mm / spacing
    further = [map_coordinates(axis, places, order=1, mode="nearest") for axis in warp.field_mm]
    return np.asarray(step.field_mm + np.stack(further), np.float32)


def _coarse(affine: Affine, shape: Shape) -> sitk.Image:
    spacing = np.maximum(SPACING_MM, np.diag(affine)[:3])
    size = np.ceil((np.array(shape) - 1) * np.diag(affine)[:3] / spacing).astype(int) + 1
    placed = np.diag([*spacing, 1.0])
    placed[:3, 3] = affine[:3, 3]
    return itk_grid(placed, (int(size[0]), int(size[1]), int(size[2])))


def _even(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale what an image shows to a deviation of one; nought stays nought."""
    shown = values[values != 0]
    return np.asarray(values / max(float(shown.std()), 1e-6) if shown.size else values, np.float32)


def _field(mean: sitk.Image, image: sitk.Image) -> NDArray[np.float32]:
    """Return ``(3, I, J, K)``: where the mean's points lie in an image, less where they are."""
    sides = [(size - 1) * spacing for size, spacing in zip(mean.GetSize(), mean.GetSpacing(), strict=True)]
    knots = [max(1, round(side / MESH_MM)) for side in sides]
    method = metric_of(mean)
    method.SetInitialTransformAsBSpline(sitk.BSplineTransformInitializer(mean, knots, 3), inPlace=False, scaleFactors=FINER)
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([2, 1, 0])
    method.SetOptimizerAsLBFGS2(solutionAccuracy=1e-2, numberOfIterations=ITERATIONS, deltaConvergenceTolerance=1e-4)
    found = method.Execute(mean, image)
    field = sitk.TransformToDisplacementField(
        found, sitk.sitkVectorFloat32, mean.GetSize(), mean.GetOrigin(), mean.GetSpacing(), mean.GetDirection()
    )
    return np.ascontiguousarray(sitk.GetArrayFromImage(field).transpose(3, 2, 1, 0))
