"""The most probable label on another grid, without ever computing every class there.

Linear interpolation is convex: where one class leads another at all eight corners of a cell, it leads inside the cell, too. A
cell whose corners agree is decided, and only in the others, along borders, are classes interpolated, from eight corners each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import embedding_bag

from medray.preprocessing.blocks import span_of
from medray.preprocessing.patches import Starts
from medray.preprocessing.resample_labels import Line, corners_of, extremes, line_of
from medray.types import Mask, Shape

__all__ = ["Argmax", "argmax", "argmax_resampled"]

ROWS = 8
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

    def decide(row: int) -> None:  # a row of every channel fits in a core's cache, a volume doesn't
        top, where = channels[0, row].copy(), best[row]
        for number in range(1, len(channels)):
            channel = channels[number, row]
            where[channel > top] = number
            np.maximum(top, channel, out=top)
        if second is not None:
            rest = channels[:, row].copy()
            np.put_along_axis(rest, where[np.newaxis].astype(np.intp), -np.inf, axis=0)
            second[row] = rest.argmax(axis=0)

    _each(decide, range(channels.shape[1]))
    return best


def _each(work: Callable[[int], None], numbers: Iterable[int]) -> None:
    """Do some work for each number, on as many cores as torch may use in this thread; it uses one in each of those."""
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(before, initializer=partial(torch.set_num_threads, 1)) as threads:
            for _ in threads.map(work, numbers):
                pass
    finally:
        torch.set_num_threads(before)  # of threads that are still to come, too


def argmax_resampled(channels: Array, shape: Shape) -> Mask:
    """Return `Argmax`'s result for channels ``(C, I, J, K)`` that are all there."""
    found = Argmax(channels.shape[1:], shape)
    found.add((0, 0, 0), channels)
    return found.result


class Argmax:
    """Resamples each channel of a map linearly to ``shape`` over the same field of view; keeps the number of the largest one.

    Blocks come in the order of `Blocks`. Of a map on the result's own grid none is kept; else of rows that aren't complete yet
    what lies along borders. Ties go to the lower channel.

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
        self._rows: dict[int, _Whole | _Bordering] = {}
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
            self._rows[start[0]] = _Whole(values) if whole else _Bordering((values.shape[1], *self._grid[1:]))
        rows = self._rows[start[0]]
        rows.fill(start, values, self._best[span])
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

        def decide(start: int) -> None:
            part = along.part(start, min(start + ROWS, ready))
            low, high = int(part.first[0]), int(part.second[-1]) + 1
            lines = [part.shifted(low), *self._lines[1:]]
            lowest, highest = extremes(self._best[low:high], lines)
            border = np.flatnonzero(lowest != highest)
            if len(border):
                lowest.ravel()[border] = self._decided(low, high, lines, border)
            self.result[start : start + len(lowest)] = lowest

        _each(decide, range(self._done, ready, ROWS))
        self._done = ready
        needed = int(along.first[ready]) if ready < len(along.first) else self._there
        self._rows = {first: rows for first, rows in self._rows.items() if first + rows.count > needed}

    def _decided(self, low: int, high: int, lines: list[Line], border: NDArray[np.int64]) -> Mask:
        """Return the largest channel at border voxels of the result, from the map's rows ``low`` to before ``high``."""
        size = (high - low, *self._grid[1:])
        corners, weights = (np.ascontiguousarray(of_each.T) for of_each in corners_of(size, lines, border))
        used = np.zeros(size, np.bool_)
        used.reshape(-1)[corners] = True
        numbers = np.cumsum(used, dtype=np.int32) - 1
        parts = [
            rows.picked(max(0, low - first), used[max(0, first - low) : first + rows.count - low])
            for first, rows in sorted(self._rows.items())
            if first < high and low < first + rows.count
        ]
        table = torch.from_numpy(parts[0] if len(parts) == 1 else np.concatenate(parts))
        decided = np.empty(len(border), np.uint8)
        step = max(1, AT_ONCE // table.shape[1])
        for start in range(0, len(border), step):
            which = torch.from_numpy(numbers[corners[start : start + step]])
            shares = torch.from_numpy(weights[start : start + step])
            values = embedding_bag(which, table, per_sample_weights=shares, mode="sum")
            decided[start : start + step] = values.max(dim=1).indices.numpy()
        return decided


class _Whole:
    """Rows of a map that came in one block, which is kept as it is."""

    missing = 0

    def __init__(self, values: Array) -> None:
        self._values = values
        self.count = values.shape[1]

    def picked(self, low: int, used: NDArray[np.bool_]) -> Array:
        """Return the values ``(N, C)`` of the voxels that are used, of rows from ``low`` on."""
        rows = self._values[:, low : low + len(used)]
        return np.stack([channel[used] for channel in rows], axis=1)

    def fill(self, start: Starts, values: Array, best: Mask) -> None:
        """The one block is there already."""


class _Bordering:
    """Rows of a map that come in several blocks, of which only voxels beside another label or another block are kept."""

    def __init__(self, shape: Shape) -> None:
        self._places = np.full(shape, -1, np.int32)
        self._tables: list[Array] = []
        self._kept = 0
        self.count = shape[0]
        self.missing = math.prod(shape)

    def fill(self, start: Starts, values: Array, best: Mask) -> None:
        """Keep what is needed of a block that starts in these rows' first."""
        bordering = _bordering(best)
        table = np.stack([channel[bordering] for channel in values], axis=1)
        self._places[span_of((0, start[1], start[2]), values)][bordering] = np.arange(self._kept, self._kept + len(table))
        self._tables.append(table)
        self._kept += len(table)
        self.missing -= best.size

    def picked(self, low: int, used: NDArray[np.bool_]) -> Array:
        """See `_Whole.picked`."""
        places = self._places[low : low + len(used)][used]
        found, first = np.empty((len(places), self._tables[0].shape[1]), np.float32), 0
        for table in self._tables:
            mine = (places >= first) & (places < first + len(table))
            found[mine] = table[places[mine] - first]
            first += len(table)
        return found


def _bordering(best: Mask) -> NDArray[np.bool_]:
    """Return which voxels of a block are a corner of a cell whose corners disagree, or lie at the block's faces."""
    lowest = highest = best
    whole = slice(None)
    sides = [((*lead, slice(None, -1)), (*lead, slice(1, None))) for lead in ((whole,) * axis for axis in range(3))]
    for before, after in sides:
        lowest, highest = np.minimum(lowest[before], lowest[after]), np.maximum(highest[before], highest[after])
    cells = np.pad(lowest != highest, 1, constant_values=True)
    for before, after in sides:
        cells = cells[before] | cells[after]
    return cells
