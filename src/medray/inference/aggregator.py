"""Putting patches together again: the inverse of cutting them out (`medray.preprocessing.patches`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise, product

import numpy as np
import torch

from medray.preprocessing.blocks import Block
from medray.preprocessing.patches import Starts
from medray.types import Shape

__all__ = ["Aggregator", "importance"]

Segment = tuple[int, int]


@lru_cache(maxsize=8)
def importance(patch: Shape) -> torch.Tensor:
    """Return a Gaussian weight ``(I, J, K)`` for blending, sigma an eighth of the patch (Isensee et al. 2021)."""
    lines = [np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / (n / 8)) ** 2) for n in patch]
    weight = np.einsum("i,j,k->ijk", *lines)
    return torch.from_numpy(np.maximum(weight, 1e-3).astype(np.float32))


class Aggregator:
    """Blends overlapping patches, and gives away each block as soon as no more patches will touch it.

    Where patches start and end, their axis is cut: between two cuts every voxel lies in the same patches. Only the blocks where
    patches overlap and some are still to come are held.

    Args:
        shape: The volume's I, J, K.
        starts: Where patches start: a grid, as `tile_starts` gives it.
        patch: The patches' I, J, K.
        device: Where the blending is done.
    """

    def __init__(self, shape: Shape, starts: Sequence[Starts], patch: Shape, device: torch.device) -> None:
        self._patch = patch
        self._weight = importance(patch).to(device)
        lines = [sorted({start[axis] for start in starts}) for axis in range(3)]
        self._segments = [_segments(line, length, size) for line, length, size in zip(lines, patch, shape, strict=True)]
        self._lines = lines
        self._open: dict[Starts, tuple[torch.Tensor, torch.Tensor]] = {}
        self._seen: dict[Starts, int] = {}

    @property
    def held(self) -> int:
        """Values that wait for more patches."""
        return sum(total.numel() for total, _ in self._open.values())

    def add(self, values: torch.Tensor, start: Starts) -> Iterator[Block]:
        """Add one patch ``(C, *patch)`` whose first voxel lies at ``start``, and yield the blocks that it completes.

        What sticks out of the volume is dropped.
        """
        mine = [self._mine(axis, start[axis]) for axis in range(3)]
        for segments in product(*mine):
            begin = (segments[0][0], segments[1][0], segments[2][0])
            inside = tuple(slice(low - first, high - first) for (low, high), first in zip(segments, start, strict=True))
            part, weight = values[(slice(None), *inside)], self._weight[inside]
            expected = self._covering(segments)
            if expected == 1:
                yield begin, part.cpu().numpy()
                continue
            if begin not in self._open:
                self._open[begin] = (part * weight, weight.clone())
            else:
                total, weights = self._open[begin]
                total.addcmul_(part, weight[None])
                weights += weight
            self._seen[begin] = self._seen.get(begin, 0) + 1
            if self._seen[begin] == expected:
                total, weights = self._open.pop(begin)
                del self._seen[begin]
                yield begin, (total / weights).cpu().numpy()

    def _mine(self, axis: int, start: int) -> list[Segment]:
        stop = start + self._patch[axis]
        return [segment for segment in self._segments[axis] if start <= segment[0] and segment[1] <= stop]

    def _covering(self, segments: Sequence[Segment]) -> int:
        """Return how many patches cover a block."""
        count = 1
        for (low, high), line, length in zip(segments, self._lines, self._patch, strict=True):
            count *= sum(first <= low and high <= first + length for first in line)
        return count


def _segments(line: Sequence[int], length: int, size: int) -> list[Segment]:
    cuts = sorted({0, size, *(place for first in line for place in (first, first + length) if place < size)})
    return list(pairwise(cuts))
