"""A map of many channels that comes in blocks, so that nobody need hold all of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from medray.preprocessing.patches import Starts
from medray.types import Shape

__all__ = ["Block", "Blocks", "span_of"]

Block = tuple[Starts, NDArray[np.float32]]
"""First voxel, and values ``(D, i, j, k)`` from there on."""


@dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """A map ``(D, I, J, K)`` in parts that cover it, each voxel once. To be gone through once.

    Attributes:
        grid: I, J, K.
        parts: In such an order that no part ends, along I, before the first voxel of one before it.
        embeddings: What the network's deepest layer made of each window ``(F,)``; all are there when the parts have come.
    """

    grid: Shape
    parts: Iterable[Block]
    embeddings: list[NDArray[np.float32]] = field(default_factory=list)

    @classmethod
    def of(cls, volume: NDArray[np.float32], embeddings: Sequence[NDArray[np.float32]] = ()) -> Blocks:
        """Return a whole map as one block."""
        return cls((volume.shape[1], volume.shape[2], volume.shape[3]), [((0, 0, 0), volume)], list(embeddings))

    def through(self, parts: Iterable[Block]) -> Blocks:
        """Return the same map whose parts somebody looks at as they come."""
        return replace(self, parts=parts)

    def whole(self) -> NDArray[np.float32]:
        """Put the map together, for who needs all of it at once."""
        volume: NDArray[np.float32] | None = None
        for start, values in self.parts:
            if values.shape[1:] == self.grid:
                return values
            if volume is None:
                volume = np.empty((len(values), *self.grid), np.float32)
            volume[(slice(None), *span_of(start, values))] = values
        if volume is None:
            raise ValueError("a map has a first block")
        return volume


def span_of(start: Starts, values: NDArray[np.float32]) -> tuple[slice, slice, slice]:
    """Return where a block lies in its map."""
    i, j, k = (slice(begin, begin + length) for begin, length in zip(start, values.shape[1:], strict=True))
    return i, j, k
