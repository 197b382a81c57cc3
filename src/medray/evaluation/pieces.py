"""Connected pieces of a mask: which of them an answer keeps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["SIZES_ML", "Kept", "best_size", "dice_from", "kept_by_size", "without_pieces"]

Binary = NDArray[np.bool_]
Kept = tuple[int, list[tuple[int, int]]]
"""Voxels of the truth and, for each of `SIZES_ML`, voxels of the pieces as large as that and how many of them are right."""

SIZES_ML = (0.0, *(round(0.01 * 1.5**n, 4) for n in range(14)))
"""What the smallest piece of an answer may be asked to have: 0.01 ml to 2 ml."""
LEAST_GAIN = 0.005
"""In mean Dice: for less, small pieces stay."""


def without_pieces(mask: Binary, *, smallest: float = 0.0, largest_only: bool = False) -> Binary:
    """Return a mask ``(I, J, K)`` without its pieces of fewer than ``smallest`` voxels, or without all but the largest.

    Pieces are connected through faces.
    """
    filled = [np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis))) for axis in range(3)]
    if not len(filled[0]):
        return mask
    box = tuple(slice(int(places[0]), int(places[-1]) + 1) for places in filled)
    pieces, count = ndimage.label(mask[box])
    if largest_only and count == 1:
        return mask
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    stays = np.arange(len(sizes)) == sizes.argmax() if largest_only else sizes >= max(smallest, 1)
    kept = np.zeros_like(mask)
    kept[box] = stays[pieces]
    return kept


def kept_by_size(said: Binary, true: Binary, voxel_ml: float) -> Kept:
    """Measure an answer for each size that its smallest piece may be asked to have."""
    pieces, count = ndimage.label(said)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
    right = np.bincount(pieces[said & true], minlength=count + 1)[1:]
    stays = [sizes * voxel_ml >= size for size in SIZES_ML]
    return int(np.count_nonzero(true)), [(int(sizes[which].sum()), int(right[which].sum())) for which in stays]


def best_size(found: Sequence[Kept]) -> float:
    """Return the smallest of `SIZES_ML` with the highest mean Dice; 0 where none gains `LEAST_GAIN`, or there is no truth."""
    if not any(true for true, _ in found):
        return 0.0
    means = np.array([dice_from(found, size) for size in SIZES_ML])
    best = int(np.nanargmax(means.round(6)))
    return SIZES_ML[best] if means[best] >= means[0] + LEAST_GAIN else 0.0


def dice_from(found: Sequence[Kept], smallest_ml: float) -> float:
    """Return the mean Dice of answers whose pieces are as large as one of `SIZES_ML`; NaN for images without any voxel."""
    which = SIZES_ML.index(smallest_ml)
    cases = [(true, *kept[which]) for true, kept in found]
    dice = [2 * right / (said + true) for true, said, right in cases if said + true]
    return float(np.mean(dice)) if dice else float("nan")
