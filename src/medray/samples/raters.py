"""Simulated experts: each draws what is there with a habit of their own and a hand that isn't steady."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter, label

from medray.types import Mask, Triple

__all__ = ["Rater", "drawn", "raters"]

CALM_MM = 3.0
"""Over which a hand errs to the same side."""


@dataclass(frozen=True, slots=True)
class Rater:
    """How somebody draws.

    Attributes:
        outwards_mm: By how much their outlines lie outside of the true ones; negative for inside.
        unsteady_mm: Standard deviation of their outlines' distance from where they mean to draw them.
        misses: How probable it is that they overlook a thing of 1 ml; it falls with its size.
    """

    outwards_mm: float = 0.0
    unsteady_mm: float = 0.5
    misses: float = 0.0


def raters(count: int, rng: np.random.Generator) -> list[Rater]:
    """Return trained experts: habits of some 0.3 mm to either side, hands of 0.5 to 1.2 mm, misses of up to 5 % at 1 ml."""
    return [Rater(rng.normal(0, 0.3), rng.uniform(0.5, 1.2), rng.uniform(0, 0.05)) for _ in range(count)]


def drawn(truth: Mask, spacing_mm: Triple, rater: Rater, rng: np.random.Generator, values: Sequence[int] = (1,)) -> Mask:
    """Return what an expert draws of a true label map; where labels would overlap, the later of ``values`` stays.

    Args:
        truth: ``(I, J, K)``.
        spacing_mm: Along I, J, K.
        rater: Who draws.
        rng: Decides where their hand errs.
        values: Which labels they draw.
    """
    mask = np.zeros_like(truth)
    for value in values:
        seen = _noticed(truth == value, spacing_mm, rater, rng)
        if seen.any():
            mask[_inside_mm(seen, spacing_mm) + rater.outwards_mm + rater.unsteady_mm * _hand(truth, spacing_mm, rng) > 0] = (
                value
            )
    return mask


def _noticed(there: NDArray[np.bool_], spacing_mm: Triple, rater: Rater, rng: np.random.Generator) -> NDArray[np.bool_]:
    pieces, count = label(there)
    sizes_ml = np.bincount(pieces.ravel(), minlength=count + 1)[1:] * float(np.prod(spacing_mm)) / 1000
    chance = np.clip(rater.misses / np.maximum(sizes_ml, 1e-6), 0, 0.9)
    kept = np.flatnonzero(rng.random(count) >= chance) + 1
    return np.isin(pieces, kept)


def _inside_mm(mask: NDArray[np.bool_], spacing_mm: Triple) -> NDArray[np.float64]:
    """Return how far each voxel's centre lies inside; negative outside."""
    inside = distance_transform_edt(mask, sampling=spacing_mm)
    outside = distance_transform_edt(~mask, sampling=spacing_mm)
    half = float(np.mean(spacing_mm)) / 2  # the surface lies between the centres of two voxels
    signed: NDArray[np.float64] = np.where(mask, inside - half, half - outside)
    return signed


def _hand(truth: Mask, spacing_mm: Triple, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return a smooth random field of variance 1."""
    field = gaussian_filter(rng.standard_normal(truth.shape), [CALM_MM / side for side in spacing_mm], mode="wrap")
    scaled: NDArray[np.float64] = field / max(float(field.std()), 1e-12)
    return scaled
