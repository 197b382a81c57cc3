"""How probable some targets are at each voxel, kept while a network's map goes by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from medray.preprocessing.blocks import Block, Blocks, span_of
from medray.preprocessing.resample import resample
from medray.types import Shape

__all__ = ["SCALE", "Likely"]

SCALE = 255
"""What stands for certainty: a byte a voxel is as fine as anybody needs it."""


class Likely:
    """Some channels of a map, a byte a voxel.

    Args:
        grid: Of the map.
        channels: Which.
    """

    def __init__(self, grid: Shape, channels: Sequence[int]) -> None:
        self._channels = list(channels)
        self._kept = np.zeros((len(self._channels), *grid), np.uint8)

    def watched(self, blocks: Blocks) -> Blocks:
        """Return the same blocks; what is to be kept of them is, as they come."""

        def parts() -> Iterator[Block]:
            for start, values in blocks.parts:
                chosen = np.rint(SCALE * values[self._channels])
                self._kept[(slice(None), *span_of(start, values))] = chosen
                yield start, values

        return blocks.through(parts()) if self._channels else blocks

    def onto(self, shape: Shape) -> NDArray[np.uint8]:
        """Return ``(channels, *shape)`` over the same field of view, resampled linearly."""
        if not self._channels:
            return np.zeros((0, *shape), np.uint8)
        return np.asarray(np.rint(resample(self._kept, shape, order=1)), np.uint8)
