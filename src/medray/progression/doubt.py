"""How sure a network is of lesions' volumes.

A voxel's probability says how often one like it is lesion; how much neighbours err together it doesn't say. Taken here is that
all voxels of a lesion do: had its border been drawn elsewhere, it would have been so all around. Then the volume is that above
a threshold which is anywhere between 0 and 1, and a standard deviation is half of what lies between its 16 % and its 84 %.

Whole structures are not doubted so: what a network is unsure of along a long border it is unsure of each time alike, and
atrophy of a half percent would drown in it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from medray.imaging.geometry import spacing_mm
from medray.inference.likely import SCALE
from medray.progression.lesions import Found, Lesion

__all__ = ["doubted"]

LOW, HIGH = 0.16, 0.84
REACH_MM = 5.0
"""From a lesion's voxels: what is doubted farther away is no part of it."""


def doubted(found: Found, likely: NDArray[np.uint8] | None) -> Found:
    """Return lesions that know how sure the network is of their volumes.

    Args:
        found: Of a mask that the network made.
        likely: ``(I, J, K)`` on its grid: how probable lesion is, 255 standing for certainty. None of a mask that was drawn:
            then they stay as they are.
    """
    if likely is None:
        return found
    numbers = found.numbers()
    return replace(found, lesions=tuple(replace(one, doubt_mm3=_doubt(one, numbers, likely)) for one in found.lesions))


def _doubt(lesion: Lesion, numbers: NDArray[np.int32], likely: NDArray[np.uint8]) -> float:
    spacing = spacing_mm(lesion.affine)
    reach = np.ceil(REACH_MM / np.asarray(spacing)).astype(int)
    low = np.maximum(lesion.indices.min(axis=0) - reach, 0)
    high = lesion.indices.max(axis=0) + reach + 1
    box = tuple(slice(start, stop) for start, stop in zip(low.tolist(), high.tolist(), strict=True))
    around = numbers[box]
    away, nearest = distance_transform_edt(around == 0, sampling=spacing, return_indices=True)
    own = (around[tuple(nearest)] == lesion.number) & (away <= REACH_MM)
    said = likely[box][own]
    between = np.count_nonzero(said > LOW * SCALE) - np.count_nonzero(said > HIGH * SCALE)
    return float(between / 2 * abs(np.linalg.det(lesion.affine[:3, :3])))
