"""Register two images by mutual information: rigid, then affine, from several starts, both ways round."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import SimpleITK as sitk  # noqa: N813 - its own manual's name for it
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from medray.errors import ImageError
from medray.imaging.geometry import spacing_mm, to_world
from medray.imaging.volume import Volume
from medray.progression.midway import symmetric
from medray.types import Affine, Shape

__all__ = [
    "COARSE_MM",
    "MIDDLE_MM",
    "Pair",
    "Registered",
    "coarser",
    "improved",
    "itk_grid",
    "itk_image",
    "itk_transform",
    "loosened",
    "register",
]

COARSE_MM, MIDDLE_MM = 4.0, 2.0
"""Spacings at which starts are compared, and at which the affine is found before it is found on the images themselves."""
TILT_DEGREES = 15.0
STARTS_TRIED = 2
BINS = 32
SAMPLES, SEED = 200_000, 1
"""Voxels that a step looks at, at most, and which."""
WINDOW_MM = 14.0
"""Of the window in which likeness is measured."""

Pair = tuple[sitk.Image, sitk.Image]
"""A fixed image, and the moving one."""


@dataclass(frozen=True, slots=True, eq=False)
class Registered:
    """How two images lie to each other.

    Attributes:
        matrix: ``(4, 4)``, from the first image's LPS mm to the second's.
        inconsistent_mm: How far a point ends from where it began when it goes there and comes back, each way registered by
            itself: the largest of the first image's corners.
        likeness: Squared local correlation of what both show, 0 to 1.
    """

    matrix: Affine
    inconsistent_mm: float
    likeness: float


def register(first: sitk.Image, second: sitk.Image) -> Registered:
    """Register two images, each way by itself, and average.

    Raises:
        ImageError: ``not-alignable``, if they hardly overlap wherever they are put.
    """
    try:
        levels = [coarser((first, second), COARSE_MM), coarser((first, second), MIDDLE_MM), (first, second)]
        there, back = _affine(*levels), _affine(*((moving, fixed) for fixed, moving in levels))
    except RuntimeError:  # ITK's words are many, and have paths in them
        raise ImageError("not-alignable", "two scans have too little in common: are they of one patient and region?") from None
    matrix = symmetric(there, back)
    ends = _corners(first)
    off = float(np.linalg.norm(to_world(back @ there, ends) - ends, axis=1).max())
    return Registered(matrix, off, _likeness(levels[1], matrix))


def _affine(coarse: Pair, middle: Pair, fine: Pair) -> Affine:
    """Register one way: the best of several starts, rigid, then affine, each on finer images."""
    starts = sorted(_starts(*fine), key=lambda start: _metric(coarse, start))[:STARTS_TRIED]
    tried = [improved(coarse, start, step_mm=1.0) for start in starts]
    rigid = min(tried, key=lambda one: one[1])[0]
    return loosened(rigid, middle, fine)


def loosened(rigid: sitk.Transform, middle: Pair, fine: Pair) -> Affine:
    """Improve a rigid transform as an affine one, on finer images and on the images themselves."""
    found = sitk.AffineTransform(3)
    found.SetCenter(rigid.GetCenter())
    found.SetMatrix(rigid.GetMatrix())
    found.SetTranslation(rigid.GetTranslation())
    for pair, step_mm in ((middle, 0.2), (fine, 0.1)):
        found, _ = improved(pair, found, step_mm=step_mm)
    return matrix_of(found)


def _starts(fixed: sitk.Image, moving: sitk.Image) -> list[sitk.Transform]:
    """Return rigid transforms to begin from: by centres of mass and of the grids, upright and tilted about each axis."""
    starts = []
    for kind in (sitk.CenteredTransformInitializerFilter.MOMENTS, sitk.CenteredTransformInitializerFilter.GEOMETRY):
        placed = sitk.VersorRigid3DTransform(
            sitk.CenteredTransformInitializer(fixed, moving, sitk.VersorRigid3DTransform(), kind)
        )
        for axis, sign in [(0, 0.0), *product(range(3), (-1.0, 1.0))]:
            turned = sitk.VersorRigid3DTransform(placed)
            turned.SetRotation(np.eye(3)[axis].tolist(), float(np.deg2rad(sign * TILT_DEGREES)))
            starts.append(turned)
    return starts


def _metric_of(image: sitk.Image) -> sitk.ImageRegistrationMethod:
    """Make a registration by mutual information (Mattes et al., IEEE TMI 22 (2003) 120-128) of what is brighter than air."""
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetMetricFixedMask(sitk.BinaryDilate(sitk.OtsuThreshold(image, 0, 1), [3, 3, 3]))
    share = SAMPLES / image.GetNumberOfPixels()
    if share < 1:  # at random: at regular distances they would lie in lines
        method.SetMetricSamplingStrategy(method.RANDOM)
        method.SetMetricSamplingPercentage(share, SEED)
    return method


def _metric(pair: Pair, start: sitk.Transform) -> float:
    method = _metric_of(pair[0])
    method.SetInitialTransform(start)
    try:
        return float(method.MetricEvaluate(*pair))
    except RuntimeError:  # they don't touch
        return 0.0


def improved(pair: Pair, start: sitk.Transform, *, step_mm: float) -> tuple[sitk.Transform, float]:
    """Improve a transform in steps that are ``step_mm`` at first; return it with its metric, which falls."""
    method = _metric_of(pair[0])
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=step_mm, minStep=1e-3, numberOfIterations=200, relaxationFactor=0.6, gradientMagnitudeTolerance=1e-8
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(start, inPlace=False)
    found = method.Execute(*pair)
    return _only(found), float(method.GetMetricValue())


def _only(found: sitk.Transform) -> sitk.Transform:
    """Unpack a composite of one."""
    return found.GetNthTransform(0).Downcast() if found.GetName() == "CompositeTransform" else found.Downcast()


def matrix_of(transform: sitk.Transform) -> Affine:
    """Return a linear transform as ``(4, 4)``."""
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    matrix = np.eye(4)
    matrix[:3, 3] = origin
    for axis in range(3):
        matrix[:3, axis] = np.array(transform.TransformPoint(np.eye(3)[axis].tolist())) - origin
    return matrix


def itk_transform(matrix: Affine) -> sitk.AffineTransform:
    """Return a linear transform as ITK's."""
    return sitk.AffineTransform(matrix[:3, :3].ravel().tolist(), matrix[:3, 3].tolist())


def itk_image(volume: Volume) -> sitk.Image:
    """Make an ITK image of a volume's only channel; ITK's world is LPS mm, too."""
    if len(volume.voxels) != 1:
        raise ImageError("bad-channels", f"an image to align has one channel; this one has {len(volume.voxels)}")
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.voxels[0].transpose(2, 1, 0), dtype=np.float32))
    _place(image, volume.affine)
    return image


def itk_grid(affine: Affine, shape: Shape) -> sitk.Image:
    """Make an empty ITK image on a grid."""
    image = sitk.Image([int(side) for side in shape], sitk.sitkUInt8)
    _place(image, affine)
    return image


def _place(image: sitk.Image, affine: Affine) -> None:
    spacing = np.array(spacing_mm(affine))
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())


def coarser(pair: Pair, spacing: float) -> Pair:
    """Return both images smoothed, at a coarser spacing."""
    return _coarser(pair[0], spacing), _coarser(pair[1], spacing)


def _coarser(image: sitk.Image, spacing: float) -> sitk.Image:
    fine = np.array(image.GetSpacing())
    sides = np.array(image.GetSize()) * fine
    size = np.maximum(1, np.round(sides / spacing)).astype(int)
    first = (sides / size) / fine / 2 - 0.5
    grid = sitk.Image(size.tolist(), sitk.sitkUInt8)
    grid.SetSpacing((sides / size).tolist())
    grid.SetDirection(image.GetDirection())
    grid.SetOrigin(image.TransformContinuousIndexToPhysicalPoint(first.tolist()))
    smooth = sitk.SmoothingRecursiveGaussian(image, spacing / 2)
    return sitk.Resample(smooth, grid, sitk.Transform(), sitk.sitkLinear, 0.0, sitk.sitkFloat32)


def _corners(image: sitk.Image) -> NDArray[np.float64]:
    ends = np.array(list(product(*((0, side - 1) for side in image.GetSize()))), dtype=float)
    return np.array([image.TransformContinuousIndexToPhysicalPoint(end.tolist()) for end in ends])


def _likeness(middle: Pair, matrix: Affine) -> float:
    """Return the mean squared correlation of the images in a small window, where the first has something to show."""
    grid, other = middle
    moved = sitk.Resample(other, grid, itk_transform(matrix), sitk.sitkLinear, 0.0, sitk.sitkFloat32)
    a, b = (sitk.GetArrayFromImage(image).astype(np.float64) for image in (grid, moved))
    size = max(3, round(WINDOW_MM / MIDDLE_MM))

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(uniform_filter(values, size))

    covariance, var_a, var_b = mean(a * b) - mean(a) * mean(b), mean(a * a) - mean(a) ** 2, mean(b * b) - mean(b) ** 2
    shows = var_a > 0.05 * np.percentile(var_a, 99)
    squared = covariance**2 / np.maximum(var_a * var_b, 1e-12 * max(float(var_a.max() * var_b.max()), 1e-300))
    return float(np.clip(squared[shows], 0, 1).mean()) if shows.any() else 0.0
