"""Distances between the surfaces of two masks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, distance_transform_edt

from medray.types import Triple

__all__ = ["SurfaceDistance", "surface_distance"]

Binary = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class SurfaceDistance:
    """How far two surfaces lie apart.

    Attributes:
        hd95_mm: 95th percentile of the distances from each surface to the other, the larger of both directions;
            infinite when one mask is empty, NaN when both are.
        surface_dice: Share of both surfaces that lies within the tolerance of the other; 0 when one is empty.
    """

    hd95_mm: float
    surface_dice: float


def surface_distance(predicted: Binary, truth: Binary, spacing_mm: Triple, *, tolerance_mm: float = 1.0) -> SurfaceDistance:
    """Measure the robust Hausdorff distance and the surface Dice of two masks.

    A surface is the mask's voxels that touch background through a face; distances are between voxel centres. HD95 after
    Huttenlocher et al., IEEE TPAMI 15 (1993) 850-863, surface Dice after Nikolov et al., J Med Internet Res 23 (2021) e26151,
    with voxels in place of surface elements.

    Args:
        predicted: ``(I, J, K)``.
        truth: ``(I, J, K)`` on the same grid.
        spacing_mm: Along I, J, K.
        tolerance_mm: For the surface Dice: what two experts differ by.
    """
    if not predicted.any() or not truth.any():
        neither = not predicted.any() and not truth.any()
        return SurfaceDistance(math.nan if neither else math.inf, math.nan if neither else 0.0)
    box = _box(predicted | truth)
    flat = tuple(axis for axis, size in enumerate(truth.shape) if size == 1)
    first, second = _surface(predicted[box], flat), _surface(truth[box], flat)
    there = distance_transform_edt(~second, sampling=spacing_mm)[first]
    back = distance_transform_edt(~first, sampling=spacing_mm)[second]
    near = np.count_nonzero(there <= tolerance_mm) + np.count_nonzero(back <= tolerance_mm)
    return SurfaceDistance(
        hd95_mm=float(max(np.percentile(there, 95), np.percentile(back, 95))),
        surface_dice=float(near / (there.size + back.size)),
    )


def _surface(mask: Binary, flat: tuple[int, ...]) -> Binary:
    """Return the voxels that erosion takes away; ``flat`` axes, those of a picture, have no inside and are left out."""
    thin = mask.squeeze(flat)
    shell: Binary = thin ^ binary_erosion(thin)
    return np.expand_dims(shell, flat)


def _box(mask: Binary) -> tuple[slice, ...]:
    box: list[slice[Any, Any, Any]] = []
    for axis in range(3):
        found = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        box.append(slice(int(found[0]), int(found[-1]) + 1))
    return tuple(box)
