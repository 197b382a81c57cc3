"""Lesions of each time point, and which of them are the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects, label
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from medray.imaging.geometry import to_world
from medray.imaging.volume import Volume
from medray.progression.midway import inverse
from medray.types import Affine

__all__ = ["Lesion", "Track", "found_in", "matched"]

LEAST_MM3 = 10.0
"""Smaller ones are noise of a mask's voxels: two to four of them at 1 mm."""
NEAR_MM = 2.0
"""Between the surfaces of what is still the same lesion, though nothing of it overlaps."""
Points = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Lesion:
    """One connected piece of a mask (its voxels touch by a face, an edge or a corner).

    Attributes:
        time_point: Counted from 0.
        number: At its time point, from 1, the largest first.
        indices: ``(N, 3)``, its voxels.
        affine: ``(4, 4)`` of their grid, LPS mm.
    """

    time_point: int
    number: int
    indices: NDArray[np.intp]
    affine: Affine

    @property
    def volume_mm3(self) -> float:
        """Volume of its voxels."""
        return float(len(self.indices) * abs(np.linalg.det(self.affine[:3, :3])))

    @property
    def points(self) -> Points:
        """``(N, 3)``, its voxels' centres in the scan's LPS mm."""
        return to_world(self.affine, self.indices)

    @property
    def centre(self) -> Points:
        """``(3,)``, its centre of mass in the scan's LPS mm."""
        return np.asarray(self.points.mean(axis=0))


@dataclass(frozen=True, slots=True, eq=False)
class Track:
    """One lesion over time.

    Attributes:
        number: From 1; it stays when time points are added.
        lesions: For each time point, its pieces: none where it isn't there, several where it is split.
    """

    number: int
    lesions: tuple[tuple[Lesion, ...], ...]

    @property
    def volumes_mm3(self) -> tuple[float, ...]:
        """Volume at each time point, of all pieces together."""
        return tuple(sum(piece.volume_mm3 for piece in pieces) for pieces in self.lesions)

    def pieces(self, time_point: int) -> int:
        """Return how many pieces it is in."""
        return len(self.lesions[time_point])


def found_in(mask: Volume, time_point: int, *, least_mm3: float = LEAST_MM3) -> list[Lesion]:
    """Find lesions in a mask.

    Args:
        mask: One channel; what isn't 0 is lesion.
        time_point: Of the mask.
        least_mm3: Of a lesion's volume.
    """
    numbered, _ = label(mask.voxels[0] != 0, structure=np.ones((3, 3, 3), bool))
    voxel_mm3 = mask.voxel_ml * 1000
    pieces = []
    for value, box in enumerate(find_objects(numbered), start=1):
        indices = np.argwhere(numbered[box] == value) + [side.start for side in box]
        if len(indices) * voxel_mm3 >= least_mm3:
            pieces.append(indices)
    pieces.sort(key=lambda indices: (-len(indices), tuple(indices[0])))
    return [Lesion(time_point, number, indices, mask.affine) for number, indices in enumerate(pieces, start=1)]


def matched(lesions: Sequence[Sequence[Lesion]], matrices: Sequence[Affine], *, near_mm: float = NEAR_MM) -> list[Track]:
    """Say which lesions are the same: those that overlap in the common space and, where one overlaps with none, those near by.

    Lesions of all pairs of time points are compared, so that one that is missed once is still one lesion. Where two have
    merged they are one track before, too, in two pieces.

    Args:
        lesions: Of each time point.
        matrices: For each time point, ``(4, 4)`` from the common space's LPS mm to the image's.
        near_mm: Between surfaces of what is still the same lesion.

    Returns:
        Tracks; those of the first time point first, the largest first.
    """
    everything = [lesion for of_one in lesions for lesion in of_one]
    trees = [cKDTree(to_world(inverse(matrices[one.time_point]), one.points)) for one in everything]
    pairs = [(a, b) for a, b in combinations(range(len(everything)), 2) if everything[a].time_point != everything[b].time_point]
    apart = {(a, b): _apart(trees[a], trees[b], _reach(everything[a], everything[b]) + near_mm) for a, b in pairs}
    links = [(a, b) for a, b in pairs if apart[a, b] <= _reach(everything[a], everything[b])]
    alone = set(range(len(everything))) - {number for link in links for number in link}
    links += [(a, b) for a, b in pairs if a in alone and b in alone and np.isfinite(apart[a, b])]
    rows, columns = np.array(links, dtype=int).reshape(-1, 2).T
    graph = coo_matrix((np.ones(len(links)), (rows, columns)), shape=(len(everything),) * 2)
    _, groups = connected_components(graph, directed=False)
    order = list(dict.fromkeys(groups.tolist()))
    return [
        Track(number, tuple(tuple(_of(everything, groups, group, at)) for at in range(len(lesions))))
        for number, group in enumerate(order, start=1)
    ]


def _of(everything: Sequence[Lesion], groups: NDArray[np.int32], group: int, time_point: int) -> list[Lesion]:
    return [one for one, of in zip(everything, groups, strict=True) if of == group and one.time_point == time_point]


def _reach(one: Lesion, other: Lesion) -> float:
    """Return half the voxel diagonals: voxel centres of what touches are no nearer than that."""
    return sum(float(np.linalg.norm(np.linalg.norm(lesion.affine[:3, :3], axis=0))) for lesion in (one, other)) / 4


def _apart(one: cKDTree, other: cKDTree, most: float) -> float:
    """Return the distance between the nearest points of two sets; infinity beyond ``most``."""
    boxes = np.maximum(one.mins - other.maxes, other.mins - one.maxes)
    if float(np.linalg.norm(np.maximum(boxes, 0))) > most:
        return float("inf")
    return float(one.query(other.data, distance_upper_bound=most)[0].min())
