"""What the workers of a fit do together, besides sharing gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import distributed, nn

__all__ = ["ALONE", "Team"]

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Team:
    """This worker among the others.

    Attributes:
        rank: Its number.
        size: How many there are.
    """

    rank: int = 0
    size: int = 1

    def share(self, items: Sequence[Item]) -> list[Item]:
        """Return this worker's part of what all have."""
        return list(items[self.rank :: self.size])

    def gather(self, items: list[Item]) -> list[Item]:
        """Return everybody's items, the same list on each worker."""
        if self.size == 1:
            return items
        parts: list[list[Item]] = [[] for _ in range(self.size)]
        distributed.all_gather_object(parts, items)
        return [item for part in parts for item in part]

    def agree(self, model: nn.Module) -> None:
        """Give every worker the first one's running statistics, which is what is saved."""
        if self.size > 1:
            with torch.no_grad():
                for buffer in model.buffers():
                    distributed.broadcast(buffer, src=0)


ALONE = Team()
