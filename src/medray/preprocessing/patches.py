"""Cutting volumes into patches; `medray.inference.aggregator` puts them together again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np

from medray.types import Shape, Voxels

__all__ = ["Starts", "crop", "draw_start", "tile_starts"]

Starts = tuple[int, int, int]
JITTER = 4
"""Voxels that a labelled voxel is off the patch's middle, at most; none where a patch is one slice, which would miss it."""


def tile_starts(shape: Shape, patch: Shape, *, overlap: float) -> list[Starts]:
    """Return where patches start so that together they cover ``shape``.

    Args:
        shape: Voxels along I, J, K.
        patch: Voxels of a patch.
        overlap: Share of a patch that neighbours have in common, at least; 0 to below 1.

    Returns:
        First voxels, evenly spread; negative nowhere. An axis shorter than its patch starts at 0.
    """
    lines = []
    for size, length in zip(shape, patch, strict=True):
        room = max(0, size - length)
        count = 1 + int(np.ceil(room / (length * (1 - overlap)))) if room else 1
        lines.append(sorted({round(start) for start in np.linspace(0, room, count)}))
    return [(i, j, k) for i, j, k in product(*lines)]


def crop(voxels: Voxels, start: Sequence[int], patch: Shape) -> Voxels:
    """Cut ``patch`` voxels out of the last three axes; beyond the volume its edge value goes on.

    ``start`` may be negative or reach past the end. Returns a view where no padding is needed.
    """
    spans: list[slice] = []
    pads: list[tuple[int, int]] = []
    for begin, length, size in zip(start, patch, voxels.shape[-3:], strict=True):
        low, high = max(0, begin), min(size, begin + length)
        spans.append(slice(low, high))
        pads.append((low - begin, begin + length - high))
    inner: Voxels = voxels[(..., *spans)]  # type: ignore[arg-type]
    if not any(before or after for before, after in pads):
        return inner
    return np.pad(inner, [(0, 0)] * (voxels.ndim - 3) + pads, mode="edge")


def draw_start(
    rng: np.random.Generator,
    shape: Shape,
    patch: Shape,
    labelled_voxel: Callable[[np.random.Generator], Starts | None],
    share: float,
) -> Starts:
    """Draw where a training patch starts.

    With probability ``share`` it is centred on a voxel of a label, give or take a little; else it lies anywhere inside the
    volume.

    Args:
        rng: Source of randomness.
        shape: The volume's I, J, K.
        patch: The patch's I, J, K.
        labelled_voxel: Draws such a voxel, or None where there is no label: see `medray.preprocessing.bricks.Case`.
        share: 0 to 1.
    """
    room = [max(0, size - length) for size, length in zip(shape, patch, strict=True)]
    place = labelled_voxel(rng) if rng.random() < share else None
    if place is not None:
        near = [int(rng.integers(-JITTER, JITTER + 1)) if length > 1 else 0 for length in patch]
        middle = [int(p) - length // 2 + off for p, length, off in zip(place, patch, near, strict=True)]
        i, j, k = (min(max(0, start), most) for start, most in zip(middle, room, strict=True))
        return i, j, k
    i, j, k = (int(rng.integers(most + 1)) for most in room)
    return i, j, k
