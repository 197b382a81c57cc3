"""How far a network is with an image, while its blocks go by."""

from __future__ import annotations

import math
from collections.abc import Iterator

from medray.preprocessing.blocks import Block, Blocks

__all__ = ["Progress"]


class Progress:
    """How much of a map is there, or of several in turn.

    Attributes:
        share: 0 to 1.

    Args:
        maps: How many there will be.
    """

    def __init__(self, maps: int = 1) -> None:
        self.share = 0.0
        self._maps = maps

    def watched(self, blocks: Blocks) -> Blocks:
        """Return the same blocks; `share` rises as they come."""

        def parts() -> Iterator[Block]:
            before, done, whole = self.share, 0, math.prod(blocks.grid) * self._maps
            for start, values in blocks.parts:
                yield start, values
                done += values[0].size
                self.share = before + done / whole

        return blocks.through(parts())
