"""The most probable label on another grid, without ever computing every class there.

Linear interpolation is convex: where one class leads another at all eight corners of a cell, it leads inside the cell, too. A
cell whose corners agree is decided, and only in the others, along borders, are classes interpolated, from eight corners each.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import embedding_bag

from medray.preprocessing.blocks import span_of
from medray.preprocessing.patches import Starts
from medray.preprocessing.resample_labels import Line, extremes, line_of
from medray.types import Mask, Shape

__all__ = ["Argmax", "argmax", "argmax_resampled"]

ROWS = 16
"""Of the result that are worked on at a time."""
AT_ONCE = 4_000_000
"""Values of classes at border voxels that are interpolated at a time: 16 MB."""
Array = NDArray[np.float32]


def argmax(channels: Array, second: Mask | None = None) -> Mask:
    """Return the number of the largest of up to 256 channels ``(C, I, J, K)`` at each voxel; ties go to the lower one.

    Args:
        channels: Such as probabilities.
        second: Filled with the number of the second largest, where it is given.
    """
    best = np.zeros(channels.shape[1:], np.uint8)
    for row in range(channels.shape[1]):  # a row of every channel fits in a core's cache, a volume doesn't
        top, where = channels[0, row].copy(), best[row]
        for number in range(1, len(channels)):
            channel = channels[number, row]
            where[channel > top] = number
            np.maximum(top, channel, out=top)
        if second is not None:
            rest = channels[:, row].copy()
            np.put_along_axis(rest, where[np.newaxis].astype(np.intp), -np.inf, axis=0)
            second[row] = rest.argmax(axis=0)
    return best


def argmax_resampled(channels: Array, shape: Shape) -> Mask:
    """Return `Argmax`'s result for channels ``(C, I, J, K)`` that are all there."""
    found = Argmax(channels.shape[1:], shape)
    found.add((0, 0, 0), channels)
    return found.result


class Argmax:
    """Resamples each channel of a map linearly to ``shape`` over the same field of view; keeps the number of the largest one.

    Blocks come in the order of `Blocks`. Of a map on the result's own grid none is kept; else those of the rows that aren't
    complete yet. Ties go to the lower channel.

    Args:
        grid: The map's I, J, K.
        shape: Voxels along I, J, K of the result.
        seconds: Whether the second largest is to be known on the map's grid.

    Attributes:
        result: ``shape``; complete when all blocks were added.
        second: The second largest ``grid``, or None.
    """

    def __init__(self, grid: Shape, shape: Shape, *, seconds: bool = False) -> None:
        self.result = np.empty(shape, np.uint8)
        self.second = np.empty(grid, np.uint8) if seconds else None
        self._grid = grid
        self._lines = [line_of(size, new_size) for size, new_size in zip(grid, shape, strict=True)]
        self._best = self.result if grid == shape else np.empty(grid, np.uint8)
        self._rows: dict[int, _Rows] = {}
        self._there = 0
        self._done = 0

    def add(self, start: Starts, values: Array) -> None:
        """Add one block ``(C, i, j, k)``."""
        span = span_of(start, values)
        self._best[span] = argmax(values, None if self.second is None else self.second[span])
        if self._best is self.result:
            return
        if start[0] not in self._rows:
            whole = values.shape[2:] == self._grid[1:]
            self._rows[start[0]] = _Rows(values if whole else np.empty((*values.shape[:2], *self._grid[1:]), np.float32))
        rows = self._rows[start[0]]
        rows.fill(start, values)
        if not rows.missing:
            self._resample()

    def next_best(self, where: NDArray[np.bool_]) -> Mask:
        """Return the second largest channel at voxels of the result, as the map's nearest voxel has it."""
        if self.second is None:
            raise ValueError("nothing is known of seconds")
        places = [np.where(line.weight > 0.5, line.second, line.first) for line in self._lines]
        nearest = tuple(line[place] for line, place in zip(places, np.nonzero(where), strict=True))
        found: Mask = self.second[nearest]
        return found

    def _resample(self) -> None:
        """Decide all rows of the result that lie among rows which are complete, and let go of those before them."""
        along = self._lines[0]
        while self._there in self._rows and not self._rows[self._there].missing:
            self._there += self._rows[self._there].count
        ready = int(np.searchsorted(along.second, self._there))
        for start in range(self._done, ready, ROWS):
            part = along.part(start, min(start + ROWS, ready))
            low, high = int(part.first[0]), int(part.second[-1]) + 1
            lines = [part.shifted(low), *self._lines[1:]]
            lowest, highest = extremes(self._best[low:high], lines)
            border = np.flatnonzero(lowest != highest)
            if len(border):
                lowest.ravel()[border] = _decided(self._channels(low, high), lines, border)
            self.result[start : start + len(lowest)] = lowest
        self._done = ready
        needed = int(along.first[ready]) if ready < len(along.first) else self._there
        self._rows = {first: rows for first, rows in self._rows.items() if first + rows.count > needed}

    def _channels(self, low: int, high: int) -> Array:
        """Return rows of the map, a view where they came in one piece."""
        parts = [
            rows.values[:, max(0, low - first) : high - first]
            for first, rows in sorted(self._rows.items())
            if first < high and low < first + rows.count
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


class _Rows:
    """Some rows of a map, as far as they have come."""

    def __init__(self, values: Array) -> None:
        self.values = values
        self.missing = values[0].size

    @property
    def count(self) -> int:
        return len(self.values[0])

    def fill(self, start: Starts, values: Array) -> None:
        """Put a block that starts in these rows' first into its place."""
        if values is not self.values:
            self.values[(slice(None), *span_of((0, start[1], start[2]), values))] = values
        self.missing -= values[0].size


def _decided(channels: Array, lines: list[Line], border: NDArray[np.int64]) -> Mask:
    """Return the largest channel at border voxels, numbered as in the slab's result."""
    size = channels[0].size
    corners, weights = _corners(channels.shape[1:], lines, border)
    used = np.zeros(size, np.bool_)
    used[corners] = True
    numbers = np.cumsum(used, dtype=np.int32) - 1
    table = torch.from_numpy(np.stack([channel.reshape(-1)[used] for channel in channels], axis=1))
    corners = numbers[corners]
    decided = np.empty(len(border), np.uint8)
    step = max(1, AT_ONCE // len(channels))
    for start in range(0, len(border), step):
        which = torch.from_numpy(corners[start : start + step])
        shares = torch.from_numpy(weights[start : start + step])
        values = embedding_bag(which, table, per_sample_weights=shares, mode="sum")
        decided[start : start + step] = values.max(dim=1).indices.numpy()
    return decided


def _corners(size: Shape, lines: list[Line], border: NDArray[np.int64]) -> tuple[NDArray[np.int32], Array]:
    """Return the places ``(N, 8)`` of the corners around border voxels in a flat slab, and their weights."""
    places = np.unravel_index(border, [len(line.first) for line in lines])
    strides = (size[1] * size[2], size[2], 1)
    pairs = []
    for line, stride, place in zip(lines, strides, places, strict=True):
        second = line.weight[place]
        pairs.append((((line.first * stride)[place], 1 - second), ((line.second * stride)[place], second)))
    corners, weights = np.empty((len(border), 8), np.int32), np.empty((len(border), 8), np.float32)
    for turn, ((i, wi), (j, wj), (k, wk)) in enumerate(product(*pairs)):
        corners[:, turn] = i + j + k
        weights[:, turn] = wi * wj * wk
    return corners, weights
