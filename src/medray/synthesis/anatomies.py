"""New label maps out of known ones: another shape, another side, and lesions where somebody else had them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, find_objects, label, map_coordinates, zoom
from scipy.spatial.transform import Rotation

from medray.types import Mask

__all__ = ["Invention", "invent"]

CONTROL_POINTS = 4
BEND = 0.025
"""Deviation of the bending's control points, as a share of the image's sides: neighbours, a quarter of a side apart, are pulled
apart or pushed together by 14 %. New anatomies are then as far from those they come from as people are from each other."""
TRIES = 20
ROOM = 0.9
"""Share of a transplant's voxels that must lie in the tissue that it came from."""


@dataclass(frozen=True, slots=True)
class Invention:
    """How new label maps are made.

    Attributes:
        rare: Channel numbers of labels that come as pieces, such as lesions: they are taken out and put in anew.
        most: How many pieces a new label map gets at most.
        mirror: Whether left and right may change places.
    """

    rare: tuple[int, ...]
    most: int = 5
    mirror: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """A lesion or the like: where it was, as shares of the image's sides, and in what."""

    shape: NDArray[np.bool_]
    place: NDArray[np.float64]
    number: int
    tissue: int


def invent(rng: np.random.Generator, known: Sequence[Mask], how: Invention) -> Mask:
    """Bend one of the known label maps, and put pieces of the others into it.

    Args:
        rng: Source of randomness.
        known: ``(I, J, K)`` channel numbers each, all on grids of one spacing, upright.
        how: See `Invention`.

    Returns:
        Channel numbers ``(I, J, K)``, of the same shape as one of the known ones.
    """
    base = known[int(rng.integers(len(known)))]
    mask = _bent(rng, _without(base, how.rare), mirrored=how.mirror and rng.random() < 0.5)
    if not how.rare:
        return mask
    for _ in range(int(rng.integers(how.most + 1))):
        donor = known[int(rng.integers(len(known)))]
        pieces = _pieces(donor, how.rare)
        if pieces:
            mask = _transplanted(rng, mask, pieces[int(rng.integers(len(pieces)))])
    return mask


def _without(mask: Mask, rare: Sequence[int]) -> Mask:
    """Give the pieces' voxels to the tissue around them."""
    healed = mask.copy()
    for piece, box in _found(mask, rare):
        healed[box][piece] = _around(mask, piece, box, rare)
    return healed


def _pieces(mask: Mask, rare: Sequence[int]) -> list[Piece]:
    """Cut the pieces out of a label map."""
    pieces = []
    for piece, box in _found(mask, rare):
        middle = np.array([(span.start + span.stop) / 2 for span in box])
        number = int(mask[box][piece][0])
        pieces.append(Piece(piece, middle / mask.shape, number, _around(mask, piece, box, rare)))
    return pieces


def _found(mask: Mask, rare: Sequence[int]) -> list[tuple[NDArray[np.bool_], tuple[slice, ...]]]:
    found = []
    for number in rare:
        numbered, _ = label(mask == number)
        for index, box in enumerate(find_objects(numbered), start=1):
            found.append((numbered[box] == index, box))
    return found


def _around(mask: Mask, piece: NDArray[np.bool_], box: tuple[slice, ...], rare: Sequence[int]) -> int:
    """Return the channel number that most voxels of a piece's rim have."""
    wider = tuple(slice(max(0, span.start - 1), span.stop + 1) for span in box)
    inside = np.zeros(mask[wider].shape, bool)
    inside[tuple(slice(a.start - b.start, a.stop - b.start) for a, b in zip(box, wider, strict=True))] = piece
    rim = mask[wider][binary_dilation(inside) & ~inside]
    counts = np.bincount(rim[~np.isin(rim, rare)], minlength=1)
    return int(counts.argmax())


def _bent(rng: np.random.Generator, mask: Mask, *, mirrored: bool) -> Mask:
    """Turn, scale and bend smoothly; each voxel takes the nearest label."""
    sides = np.array(mask.shape, np.float64)
    axes = np.where(sides > 1)[0]
    turn = Rotation.from_euler("xyz", rng.normal(0, 3, 3), degrees=True).as_matrix() @ np.diag(rng.uniform(0.95, 1.05, 3))
    if len(axes) < 3:
        turn[:, 2] = turn[2] = (0, 0, 1)
    if mirrored:
        turn[:, 0] *= -1
    grid = np.stack(np.meshgrid(*[np.arange(n, dtype=np.float32) for n in mask.shape], indexing="ij"))
    middle = ((sides - 1) / 2).astype(np.float32).reshape(3, 1, 1, 1)
    where = np.tensordot(turn.astype(np.float32), grid - middle, axes=1) + middle
    for axis in axes:
        points = rng.normal(0, BEND * sides[axis], [CONTROL_POINTS if side > 1 else 1 for side in mask.shape])
        factors = np.divide(mask.shape, points.shape)
        where[axis] += zoom(points, factors, order=3, grid_mode=True, mode="nearest").astype(np.float32)
    bent: Mask = map_coordinates(mask, where, order=0, mode="constant", cval=0)
    return bent


def _transplanted(rng: np.random.Generator, mask: Mask, piece: Piece) -> Mask:
    """Put a piece into a label map, near to where it was or on the other side, if there is room for it."""
    shape = piece.shape
    for axis in range(3):
        if rng.random() < 0.5:
            shape = np.flip(shape, axis)
    for _ in range(TRIES):
        place = piece.place + rng.normal(0, 0.1, 3)
        if rng.random() < 0.5:
            place[0] = 1 - place[0]
        start = np.round(place * mask.shape - np.array(shape.shape) / 2).astype(int)
        if (start < 0).any() or (start + shape.shape > mask.shape).any():
            continue
        box = tuple(slice(a, a + n) for a, n in zip(start, shape.shape, strict=True))
        if (mask[box][shape] == piece.tissue).mean() >= ROOM:
            changed = mask.copy()
            changed[box][shape] = piece.number
            return changed
    return mask
