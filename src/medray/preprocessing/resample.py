"""Resampling along voxel axes, as matrix products.

A 1-D spline interpolation is linear, so applied to the identity it gives its own matrix, prefilter included
(Unser, IEEE Signal Processing Magazine 16(6) (1999) 22-38). Three such matrices resample a volume of any order, and
each row of them is all but zero away from its diagonal, so the products run on blocks of a band. Grids are edge-aligned
as in `medray.imaging.geometry.resampled_affine`. Flips and permuted axes cost nothing: the matrices absorb them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d, map_coordinates

from medray.imaging.geometry import resampled_affine, resampled_shape
from medray.imaging.volume import Volume
from medray.types import Shape, Triple, Voxels

__all__ = ["Operator", "operator", "resample", "resampled_volume"]

BAND_TOLERANCE = 1e-5
"""Matrix entries below this are dropped: at most about 1e-5 of the image's range in the result."""
BLOCK_ROWS = 32
AXIS_COSTS = (1.0, 1.0, 2.0)
"""Of a product along each axis of a C-contiguous array, as measured with OpenBLAS."""

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Operator:
    """A 1-D resampling as a banded matrix.

    Attributes:
        matrix: ``(M, N)``: ``matrix @ line`` is the resampled line.
        blocks: Rows ``start:stop`` are zero outside columns ``low:high``.
    """

    matrix: Array
    blocks: tuple[tuple[int, int, int, int], ...]

    @property
    def gain(self) -> float:
        """How much longer a line gets."""
        rows, columns = self.matrix.shape
        return float(rows / columns)


def resample(voxels: Voxels, shape: Shape, *, order: int, antialias: bool = False) -> Array:
    """Resample every channel to ``shape`` over the same field of view.

    Args:
        voxels: ``(C, I, J, K)`` of any real dtype and memory order, negative strides included.
        shape: Voxels along I, J, K of the result.
        order: Spline order 0, 1 or 3; outside the outermost centres the edge value goes on.
        antialias: Smooth axes that get fewer voxels first, by a Gaussian of deviation (factor - 1) / 2 voxels, as
            scikit-image's ``resize`` does.

    Returns:
        ``(C, *shape)`` float32.
    """
    return np.stack([_resample_channel(channel, shape, order, antialias=antialias) for channel in voxels])


def resampled_volume(volume: Volume, spacing: Triple, *, order: int, antialias: bool = False) -> Volume:
    """Resample a volume to ``spacing`` in mm along its own axes."""
    shape = resampled_shape(volume.shape, volume.spacing_mm, spacing)
    voxels = resample(volume.voxels, shape, order=order, antialias=antialias)
    return Volume(voxels, resampled_affine(volume.affine, volume.shape, shape), volume.meta)


def _resample_channel(channel: Voxels, shape: Shape, order: int, *, antialias: bool = False) -> Array:
    if channel.shape == shape:
        return np.ascontiguousarray(channel, dtype=np.float32)
    operators, axes = [], sorted(range(3), key=lambda axis: -abs(channel.strides[axis]))
    for axis in range(3):
        flipped = channel.strides[axis] < 0
        channel = np.flip(channel, axis) if flipped else channel
        operators.append(operator(channel.shape[axis], shape[axis], order, flipped=flipped, antialias=antialias))
    line = np.ascontiguousarray(channel.transpose(axes), dtype=np.float32)
    ordered = [operators[axis] for axis in axes]
    for axis in _cheapest_order(ordered):
        line = _apply(ordered[axis], line, axis)
    return line.transpose([axes.index(axis) for axis in range(3)])


def _cheapest_order(operators: Sequence[Operator]) -> tuple[int, ...]:
    """Return the order of axes that moves least: each product costs what goes in, twice as much along the last axis."""

    def cost(axes: tuple[int, ...]) -> float:
        size, total = 1.0, 0.0
        for axis in axes:
            total += size * AXIS_COSTS[axis] * (len(operators[axis].blocks) > 0)
            size *= operators[axis].gain
        return total

    return min(permutations(range(3)), key=cost)


def _apply(one: Operator, block: Array, axis: int) -> Array:
    """Multiply along one axis of a C-contiguous 3-D array."""
    matrix, (rows, columns) = one.matrix, one.matrix.shape
    if rows == columns and len(one.blocks) == 0:
        return block
    shape = (*block.shape[:axis], rows, *block.shape[axis + 1 :])
    result = np.empty(shape, dtype=np.float32)
    if axis == 2:
        flat_in, flat_out = block.reshape(-1, columns), result.reshape(-1, rows)
        for start, stop, low, high in one.blocks:
            flat_out[:, start:stop] = flat_in[:, low:high] @ matrix[start:stop, low:high].T
        return result
    lead = 1 if axis == 0 else block.shape[0]
    stacked_in, stacked_out = block.reshape(lead, columns, -1), result.reshape(lead, rows, -1)
    for start, stop, low, high in one.blocks:
        np.matmul(matrix[start:stop, low:high], stacked_in[:, low:high], out=stacked_out[:, start:stop])
    return result


@lru_cache(maxsize=256)
def operator(size: int, new_size: int, order: int, *, flipped: bool = False, antialias: bool = False) -> Operator:
    """Return the 1-D resampling from ``size`` to ``new_size`` voxels; see `resample`."""
    if size == new_size and not flipped:
        return Operator(np.eye(size, dtype=np.float32), ())
    places = (np.arange(new_size) + 0.5) * size / new_size - 0.5
    rows = np.broadcast_to(places, (size, new_size))
    which = np.broadcast_to(np.arange(size)[:, None], (size, new_size))
    identity = np.eye(size)
    if order > 0:
        lines = [map_coordinates(line, places[None], order=order, mode="nearest") for line in identity]
        matrix = np.stack(lines, axis=1)
    else:
        matrix = (np.clip(np.rint(rows), 0, size - 1) == which).T.astype(np.float64)
    if antialias and new_size < size:
        matrix = matrix @ gaussian_filter1d(identity, (size / new_size - 1) / 2, axis=0, mode="nearest")
    matrix = np.where(np.abs(matrix) > BAND_TOLERANCE, matrix, 0.0)
    matrix /= matrix.sum(axis=1, keepdims=True)
    if flipped:
        matrix = matrix[:, ::-1]
    return Operator(np.ascontiguousarray(matrix, dtype=np.float32), _blocks(matrix))


def _blocks(matrix: NDArray[np.float64]) -> tuple[tuple[int, int, int, int], ...]:
    used = matrix != 0
    first = used.argmax(axis=1)
    last = used.shape[1] - used[:, ::-1].argmax(axis=1)
    starts = range(0, len(matrix), BLOCK_ROWS)
    return tuple(
        (start, stop, int(first[start:stop].min()), int(last[start:stop].max()))
        for start in starts
        for stop in (min(start + BLOCK_ROWS, len(matrix)),)
    )
