"""Lesions of each time point, and which of them are the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
from medray.types import Affine, Shape

__all__ = ["Carry", "Found", "Lesion", "Points", "Track", "cut_off", "found_in", "matched"]

LEAST_MM3, FAINT_MM3 = 10.0, 5.0
"""What never is larger than the first is noise of a mask's voxels: two to four of them at 1 mm. What is at some time may be as
small as the second at another: at one limit alone a lesion of its size would come and go."""
NEAR_MM = 2.0
"""Between the surfaces of what is still the same lesion, though nothing of it overlaps."""
LEAST_OVERLAP = 0.1
"""Share of the smaller of two lesions that lies in the larger one: what neighbours share by misalignment is less."""
LEAST_SEEN = 0.9
"""Share of a lesion that has to lie in a scan which is to say something of it."""

LEAST_HELD = 0.998
"""Share of what another scan shows of a whole structure that has to lie in a scan which is to say how large it is: atrophy of
some tenths of a percent is looked for."""
SAMPLED = 20_000
"""About as many of a structure's voxels stand for all."""

Points = NDArray[np.float64]
Carry = Callable[[int, int, Points], Points]
"""Takes points from one time point's LPS mm to another's: ``carry(first, second, points)``."""
Pair = tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Lesion:
    """One connected piece of a mask (its voxels touch by a face, an edge or a corner).

    Attributes:
        time_point: Counted from 0.
        number: At its time point, from 1, the largest first.
        indices: ``(N, 3)``, its voxels.
        affine: ``(4, 4)`` of their grid, LPS mm.
        doubt_mm3: Standard deviation of its volume, by how sure the network is; 0 of a mask that was drawn.
    """

    time_point: int
    number: int
    indices: NDArray[np.intp]
    affine: Affine
    doubt_mm3: float = 0.0

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
class Found:
    """Lesions of one time point, and the grid that they lie in.

    Attributes:
        lesions: The largest first.
        affine: ``(4, 4)`` of the mask's grid.
        shape: Of it.
    """

    lesions: tuple[Lesion, ...]
    affine: Affine
    shape: Shape

    def places(self, points: Points) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """Return the voxels that points in LPS mm lie in, and which of these the grid has."""
        voxels = np.round(to_world(inverse(self.affine), points)).astype(np.intp)
        return voxels, np.asarray(((voxels >= 0) & (voxels < self.shape)).all(axis=1))

    def sampled(self) -> Points:
        """Return some thousand points ``(N, 3)`` of all lesions, in the scan's LPS mm."""
        if not self.lesions:
            return np.zeros((0, 3))
        points = np.concatenate([one.indices for one in self.lesions])
        return to_world(self.affine, points[:: max(1, len(points) // SAMPLED)])

    def numbers(self) -> NDArray[np.int32]:
        """Return a map of lesions' numbers, 0 elsewhere."""
        drawn = np.zeros(self.shape, np.int32)
        for one in self.lesions:
            drawn[tuple(one.indices.T)] = one.number
        return drawn


@dataclass(frozen=True, slots=True, eq=False)
class Track:
    """One lesion over time.

    Attributes:
        number: From 1; it stays when time points are added, as long as what was two lesions doesn't become one.
        lesions: For each time point, its pieces: none where it isn't there, several where it is split.
        unseen: Time points whose scan doesn't show where it is, or not all of it.
    """

    number: int
    lesions: tuple[tuple[Lesion, ...], ...]
    unseen: frozenset[int] = frozenset()

    @property
    def volumes_mm3(self) -> tuple[float, ...]:
        """Volume at each time point."""
        return tuple(sum(piece.volume_mm3 for piece in pieces) for pieces in self.lesions)

    def pieces(self, time_point: int) -> int:
        """Return how many pieces it is in."""
        return len(self.lesions[time_point])


def found_in(mask: Volume, time_point: int, *, value: int = 1, least_mm3: float = FAINT_MM3) -> Found:
    """Find lesions in a mask.

    Args:
        mask: One channel.
        time_point: Of the mask.
        value: Of lesions' voxels.
        least_mm3: Of a lesion's volume.
    """
    numbered, _ = label(mask.voxels[0] == value, structure=np.ones((3, 3, 3), bool))
    voxel_mm3 = mask.voxel_ml * 1000
    pieces = []
    for number, box in enumerate(find_objects(numbered), start=1):
        indices = np.argwhere(numbered[box] == number) + [side.start for side in box]
        if len(indices) * voxel_mm3 >= least_mm3:
            pieces.append(indices)
    pieces.sort(key=lambda indices: (-len(indices), tuple(indices[0])))
    lesions = tuple(Lesion(time_point, number, indices, mask.affine) for number, indices in enumerate(pieces, start=1))
    return Found(lesions, mask.affine, mask.shape)


def matched(found: Sequence[Found], carry: Carry, *, near_mm: float = NEAR_MM) -> list[Track]:
    """Say which lesions are the same: those that overlap and, where one overlaps with none, those near by.

    Lesions of all pairs of time points are compared, so that one that is missed once is still one lesion. Where two have
    merged they are one track before, too, in two pieces.

    Args:
        found: Of each time point.
        carry: Takes points from one time point to another.
        near_mm: Between surfaces of what is still the same lesion.

    Returns:
        Tracks; those of the first time point first, the largest first.
    """
    starts = np.cumsum([0, *(len(one.lesions) for one in found)])
    links = [
        (starts[a] + i, starts[b] + j)
        for a, b in combinations(range(len(found)), 2)
        for i, j in _same(found, a, b, carry, near_mm)
    ]
    rows, columns = np.array(links, dtype=int).reshape(-1, 2).T
    graph = coo_matrix((np.ones(len(links)), (rows, columns)), shape=(starts[-1],) * 2)
    _, groups = connected_components(graph, directed=False)
    members: dict[int, list[Lesion]] = {}
    for lesion, group in zip((lesion for one in found for lesion in one.lesions), groups.tolist(), strict=True):
        members.setdefault(group, []).append(lesion)
    kept = [of_one for of_one in members.values() if max(lesion.volume_mm3 for lesion in of_one) >= LEAST_MM3]
    return [_track(number, of_one, found, carry) for number, of_one in enumerate(kept, start=1)]


def _track(number: int, members: Sequence[Lesion], found: Sequence[Found], carry: Carry) -> Track:
    """Put a lesion's pieces in order; faint ones count where there are no others."""
    lesions = []
    for at in range(len(found)):
        pieces = [lesion for lesion in members if lesion.time_point == at]
        lesions.append(tuple([piece for piece in pieces if piece.volume_mm3 >= LEAST_MM3] or pieces))
    return Track(number, tuple(lesions), frozenset(_unseen(lesions, found, carry)))


def cut_off(found: Sequence[Found], carry: Carry) -> Iterator[int]:
    """Yield time points whose scan doesn't hold all of what the others show of a whole structure."""
    points = [one.sampled() for one in found]
    for at, one in enumerate(found):
        others = [carry(time, at, there) for time, there in enumerate(points) if time != at and len(there)]
        if any(one.places(there)[1].mean() < LEAST_HELD for there in others):
            yield at


def _unseen(lesions: Sequence[Sequence[Lesion]], found: Sequence[Found], carry: Carry) -> Iterator[int]:
    for at, one in enumerate(found):
        others = [carry(piece.time_point, at, piece.points) for pieces in lesions for piece in pieces if piece.time_point != at]
        if others and one.places(np.concatenate(others))[1].mean() < LEAST_SEEN:
            yield at


def _same(found: Sequence[Found], a: int, b: int, carry: Carry, near_mm: float) -> list[Pair]:
    """Return which lesions of two time points are the same, by their places in the lists."""
    one, other = found[a], found[b]
    if not one.lesions or not other.lesions:
        return []
    there = _shared(one, other, lambda points: carry(a, b, points))
    back = _shared(other, one, lambda points: carry(b, a, points)).T
    sizes = [np.array([lesion.volume_mm3 for lesion in each.lesions]) for each in (one, other)]
    smaller = np.minimum(sizes[0][:, None], sizes[1][None])
    overlap = np.maximum(there, back) >= LEAST_OVERLAP * smaller
    alone = ~overlap.any(axis=1), ~overlap.any(axis=0)
    links = [(int(i), int(j)) for i, j in np.argwhere(overlap)]
    moved = {i: cKDTree(carry(a, b, one.lesions[i].points)) for i in np.flatnonzero(alone[0])}
    for j in np.flatnonzero(alone[1]):
        tree = cKDTree(other.lesions[j].points)
        links += [(int(i), int(j)) for i, near in moved.items() if _near(near, tree, near_mm + _reach(one, other))]
    return links


def _shared(one: Found, other: Found, carry: Callable[[Points], Points]) -> NDArray[np.float64]:
    """Return ``(lesions of one, lesions of the other)``: how many mm³ of a lesion lie in which of the other time point's."""
    points = np.concatenate([lesion.points for lesion in one.lesions])
    owners = np.repeat(np.arange(len(one.lesions)), [len(lesion.indices) for lesion in one.lesions])
    voxels, inside = other.places(carry(points))
    hits = np.zeros(len(points), np.int32)
    hits[inside] = other.numbers()[tuple(voxels[inside].T)]
    shared = np.zeros((len(one.lesions), len(other.lesions) + 1))
    np.add.at(shared, (owners, hits), abs(float(np.linalg.det(one.affine[:3, :3]))))
    return shared[:, 1:]


def _reach(one: Found, other: Found) -> float:
    """Return half the voxel diagonals: voxel centres of what touches are no nearer than that."""
    return sum(float(np.linalg.norm(np.linalg.norm(found.affine[:3, :3], axis=0))) for found in (one, other)) / 4


def _near(one: cKDTree, other: cKDTree, most: float) -> bool:
    """Tell whether the nearest points of two sets are no farther apart than that."""
    boxes = np.maximum(one.mins - other.maxes, other.mins - one.maxes)
    if float(np.linalg.norm(np.maximum(boxes, 0))) > most:
        return False
    return bool(np.isfinite(one.query(other.data, distance_upper_bound=most)[0].min()))
